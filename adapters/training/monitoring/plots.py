"""``loss.png`` and ``grad_norm.png``, drawn from the logs of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from transformers import TrainerCallback, TrainerState

from adapters.training.config import TrainingConfig
from adapters.training.data.jsonl import read_steps

_SMOOTH_STEPS = 20


class PlotWriter(TrainerCallback):
    """Draws the plots into the output folder when the training ends."""

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        draw(self._config.out, self._config.max_grad_norm)


def draw(folder: Path, max_grad_norm: float) -> list[Path]:
    """Draw ``log.jsonl`` and ``evaluations.jsonl`` of ``folder``; returns the files written, none without steps."""
    steps = read_steps(folder / "log.jsonl")
    if not steps:
        return []
    evaluations = read_steps(folder / "evaluations.jsonl")
    return [
        _draw_losses(steps, evaluations, folder / "loss.png"),
        _draw_norms(steps, max_grad_norm, folder / "grad_norm.png"),
    ]


def _draw_losses(
    steps: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]], path: Path
) -> Path:
    figure, axis = _new_figure("loss per trained token")
    xs, ys = _points(steps, "loss")
    axis.plot(xs, ys, color="0.75", linewidth=1, label="training, each step")
    axis.plot(xs, _smooth(ys), label=f"training, median of {_SMOOTH_STEPS} steps")
    for name, label in (("held_out_loss", "held out"), ("general_loss", "general")):
        xs, ys = _points(evaluations, name)
        if xs:
            axis.plot(xs, ys, marker="o", label=label)
    axis.set(ylim=(0, None))
    return _save(figure, axis, path)


def _draw_norms(steps: Sequence[Mapping[str, Any]], max_grad_norm: float, path: Path) -> Path:
    figure, axis = _new_figure("gradient norm before clipping")
    xs, ys = _points(steps, "grad_norm")
    axis.plot(xs, ys, color="0.75", linewidth=1, label="each step")
    axis.plot(xs, _smooth(ys), label=f"median of {_SMOOTH_STEPS} steps")
    axis.axhline(max_grad_norm, linestyle="--", linewidth=1, color="0.4", label="clipped above")
    axis.set(yscale="log" if any(y > 0 for y in ys) else "linear")
    return _save(figure, axis, path)


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    known = [(int(row["step"]), float(row[name])) for row in rows if row.get(name) is not None]
    return [x for x, _ in known], [y for _, y in known]


def _smooth(values: Sequence[float]) -> list[float]:
    return [median(values[max(0, at + 1 - _SMOOTH_STEPS) : at + 1]) for at in range(len(values))]


def _new_figure(title: str) -> tuple[Any, Any]:
    figure = Figure(figsize=(7, 4), layout="constrained")  # not pyplot, which would look for a display
    axis = figure.subplots()
    axis.set(title=title, xlabel="step")
    return figure, axis


def _save(figure: Any, axis: Any, path: Path) -> Path:
    axis.legend()
    figure.savefig(path, dpi=110)
    return path
