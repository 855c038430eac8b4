"""The loss of a transformers model on held-out chats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from adapters.training.data.chat_template import IGNORED, Sample, shared_lengths
from adapters.training.data.collator import collate, pack_shared

_BATCH = 8


def held_out_loss(model: Any, samples: Sequence[Sample], pad_id: int) -> float:
    """Mean loss over all trained tokens of ``samples``; each token counts once. Restores the model's mode."""
    ordered = sorted(samples, key=lambda s: len(s.ids))
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    total, tokens = 0.0, 0
    try:
        for start in range(0, len(ordered), _BATCH):
            batch = _batch(model, ordered[start : start + _BATCH], pad_id)
            summed, counted = _summed_loss(model, {name: t.to(device) for name, t in batch.items()})
            total, tokens = total + summed, tokens + counted
    finally:
        model.train(was_training)
    return total / tokens


def _batch(model: Any, samples: Sequence[Sample], pad_id: int) -> dict[str, torch.Tensor]:
    """The samples padded, or as one row if at least half of their tokens are shared beginnings."""
    shared = sum(shared_lengths(sorted(samples, key=lambda s: s.ids)))
    if 2 * shared < sum(len(s.ids) for s in samples) or model.config._attn_implementation != "sdpa":
        return collate(samples, pad_id)
    return pack_shared(samples)


def _summed_loss(model: Any, batch: dict[str, torch.Tensor]) -> tuple[float, int]:
    targets = batch["labels"][:, 1:]
    kept = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    with torch.inference_mode():
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        logits = model(**inputs, logits_to_keep=kept, use_cache=False).logits
    labels = targets[:, kept].flatten()
    summed = cross_entropy(logits.flatten(0, 1).float(), labels, ignore_index=IGNORED, reduction="sum")
    return float(summed), int((labels != IGNORED).sum())
