"""Held-out pairs of answers: how a model's probabilities of them changed since the training began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy, logsigmoid

from adapters.training.data.chat_template import IGNORED, Sample
from adapters.training.data.collator import collate
from adapters.training.data.preferences.pairs import PreferencePair
from adapters.training.evaluation.metrics import PairScore

_BATCH = 8


class HeldOutPairs:
    """Pairs to evaluate a model on, against the model that the training starts from.

    Args:
        pairs: at least one.
        beta: of the training.
        pad_id: pads a batch.
    """

    def __init__(self, pairs: Sequence[PreferencePair], beta: float, pad_id: int) -> None:
        self._samples = [sample for pair in pairs for sample in pair.samples()]
        self._beta = beta
        self._pad_id = pad_id
        self._reference: torch.Tensor | None = None

    def set_reference(self, model: Any) -> None:
        """Take ``model`` as the one that the training starts from."""
        self._reference = answer_log_probabilities(model, self._samples, self._pad_id).view(-1, 2)

    def score(self, model: Any) -> PairScore:
        """The figures of ``model``; ``set_reference`` comes first."""
        if self._reference is None:
            raise ValueError("The pairs have no reference yet.")
        now = answer_log_probabilities(model, self._samples, self._pad_id).view(-1, 2)
        lengths = torch.tensor([sample.trained_tokens for sample in self._samples]).view(-1, 2)
        gain = now - self._reference
        margins = self._beta * (gain[:, 0] - gain[:, 1])
        per_token = now / lengths
        return PairScore(
            preference_loss=float(-logsigmoid(margins).mean()),
            preferred=float((per_token[:, 0] > per_token[:, 1]).float().mean()),
            won=float((margins > 0).float().mean()),
            margin=float(margins.mean()),
        )


def answer_log_probabilities(model: Any, samples: Sequence[Sample], pad_id: int) -> torch.Tensor:
    """The log-probability (nats) of each sample's trained tokens together, shape (samples,), float32 on the CPU.

    Restores the model's mode.
    """
    order = sorted(range(len(samples)), key=lambda at: len(samples[at].ids))
    device = next(model.parameters()).device
    found = torch.zeros(len(samples))
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            batch = collate([samples[at] for at in rows], pad_id)
            found[rows] = _summed(model, {name: t.to(device) for name, t in batch.items()}).cpu()
    finally:
        model.train(was_training)
    return found


def _summed(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    targets = batch["labels"][:, 1:]
    kept = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    with torch.inference_mode():
        logits = model(input_ids=batch["input_ids"], logits_to_keep=kept, use_cache=False).logits.float()
    labels = targets[:, kept]
    losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return -losses.view_as(labels).sum(dim=1)
