"""Samples to tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from adapters.training.conversation import IGNORED, Sample


def collate(samples: Sequence[Sample], pad_id: int) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``labels`` of shape (samples, longest), padded on the right.

    Padding is told by position, never by id: where the padding token is also the end token, a label of it
    is kept (transformers#23530). There is no attention mask: attention is causal, so what stands to the
    right of a token cannot reach it, and the labels of padding are ignored.
    """
    width = max(len(s.ids) for s in samples)
    ids = torch.full((len(samples), width), pad_id, dtype=torch.long)
    labels = torch.full((len(samples), width), IGNORED, dtype=torch.long)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        labels[row, : len(sample.labels)] = torch.tensor(sample.labels)
    return {"input_ids": ids, "labels": labels}
