"""Samples to tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from adapters.training.data.chat_template import IGNORED, Sample, shared_lengths


def collate(samples: Sequence[Sample], pad_id: int) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``labels`` of shape (samples, longest), padded on the right.

    Padding is masked by position, never by id, so that an end token that is also the padding token keeps its label
    (transformers#23530). There is no attention mask: attention is causal, so the padding to the right of a token
    cannot influence it, and the labels of padding are ignored.
    """
    width = max(len(s.ids) for s in samples)
    ids = torch.full((len(samples), width), pad_id, dtype=torch.long)
    labels = torch.full((len(samples), width), IGNORED, dtype=torch.long)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        labels[row, : len(sample.labels)] = torch.tensor(sample.labels)
    return {"input_ids": ids, "labels": labels}


def pack(samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """The samples as one row: ``input_ids``, ``labels`` and ``position_ids`` of shape (1, all tokens).

    Positions start at 0 for every sample. Without an attention mask and a cache, transformers' SDPA and
    FlashAttention code takes this as the boundary that attention must not cross
    (``transformers.masking_utils: find_packed_sequence_indices``). With a mask of ones, or a cache, attention would
    cross it silently. A sample's first token is never a target, because the token before it is of another sample.
    """
    ids = [token for s in samples for token in s.ids]
    labels = [label for s in samples for label in (IGNORED, *s.labels[1:])]
    positions = [at for s in samples for at in range(len(s.ids))]
    rows = {"input_ids": ids, "labels": labels, "position_ids": positions}
    return {name: torch.tensor([row], dtype=torch.long) for name, row in rows.items()}


def pack_shared(samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """The samples as one row in which what several of them begin with stands once.

    ``input_ids``, ``labels`` and ``position_ids`` have the shape (1, T), ``attention_mask`` (1, 1, T, T): True where
    a token (third axis) attends to another, which are the tokens before it in its own sample. Attention is causal, so
    a shared token is computed as in each sample alone, and its gradient is the sum of theirs.

    NOTE: a target is predicted by the token before it in the row. So the first token that a sample has alone is never
    a target, and trained tokens are not shared (``shared_lengths``).
    """
    ordered = sorted(samples, key=lambda sample: sample.ids)
    ids: list[int] = []
    labels: list[int] = []
    positions: list[int] = []
    paths: list[
        tuple[int, list[int]]
    ] = []  # of each sample: its first own token, and the places of all its tokens
    for sample, shared in zip(ordered, shared_lengths(ordered), strict=True):
        first = len(ids)
        before = paths[-1][1][:shared] if paths else []
        paths.append((shared, [*before, *range(first, first + len(sample.ids) - shared)]))
        ids += sample.ids[shared:]
        labels += (IGNORED, *sample.labels[shared + 1 :])
        positions += range(shared, len(sample.ids))
    mask = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    for shared, path in paths:
        places = torch.tensor(path)
        mask[places[shared:, None], places] = torch.ones(len(path), len(path), dtype=torch.bool).tril()[
            shared:
        ]
    rows = {"input_ids": ids, "labels": labels, "position_ids": positions}
    packed = {name: torch.tensor([row], dtype=torch.long) for name, row in rows.items()}
    return packed | {"attention_mask": mask[None, None]}
