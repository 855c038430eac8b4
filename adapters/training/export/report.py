"""The result of a training, and the document ``training.json`` beside the adapter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from adapters.artifact.digests import base_digest, file_digest, template_digest
from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Renderer
from adapters.training.data.prepared import PreparedData

_LIBRARIES = ("torch", "transformers", "peft", "loragate")
_RECENT_STEPS = 10


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """The result of a training; ``document`` is the content of ``training.json``."""

    out: Path
    steps: int
    train_s: float
    final_loss: float | None  # mean of the last ten steps
    document: dict[str, Any]


def create_report(
    config: TrainingConfig,
    data: PreparedData,
    renderer: Renderer,
    *,
    losses: Sequence[float],
    steps: int,
    epochs: float,
    kept_step: int,
    train_s: float,
    total_s: float,
    results: Mapping[str, Any],
) -> TrainingReport:
    """The report of a finished training. ``results``: scores, verdicts and anomalies.

    ``train_s``: seconds in the loop; ``total_s``: with preparing and measuring; both with those of interrupted runs.
    """
    final_loss = _mean(losses[-_RECENT_STEPS:])
    document = {
        "format": 1,
        "base_digest": base_digest(config.base),
        "template_digest": template_digest(config.base),
        "data_digest": config.data_digest(),
        "held_out_digest": file_digest(config.held_out) if config.held_out else None,
        "end_token": config.end_token,
        "end_token_id": renderer.end_id,
        "seed": config.seed,
        "start_from": config.start_from.name if config.start_from else None,
        "hyperparameters": config.hyperparameters(),
        "data": data.counts(),
        "steps": steps,
        "epochs": round(epochs, 4),
        "kept_step": kept_step,
        "train_s": round(train_s, 1),
        "total_s": round(total_s, 1),
        "final_loss": final_loss,
        **results,
        "versions": {name: _version(name) for name in _LIBRARIES},
    }
    return TrainingReport(config.out, steps, train_s, final_loss, document)


def _mean(losses: Sequence[float]) -> float | None:
    mean = sum(losses) / len(losses) if losses else math.nan
    return round(mean, 4) if math.isfinite(mean) else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
