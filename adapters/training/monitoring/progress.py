"""The progress of a training: one JSON line per step for programs, a progress bar or a regular line for people."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerState

from adapters.training.data.jsonl import append_row, drop_steps_after
from adapters.training.loop.callback import TrainingStep

_LINE_EVERY_S = 30.0


class JsonLog(TrainerCallback):
    """Writes ``log.jsonl`` (a line per step) and ``evaluations.jsonl`` (a line per evaluation) into a folder."""

    def __init__(self, folder: Path) -> None:
        self.steps = folder / "log.jsonl"
        self.evaluations = folder / "evaluations.jsonl"

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Drop the lines of steps that a resumed training takes again."""
        for path in (self.steps, self.evaluations):
            drop_steps_after(path, state.global_step)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any, **_: Any) -> None:
        if step := TrainingStep.from_logs(state, logs):
            append_row(self.steps, step.as_dict())

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Any, **_: Any) -> None:
        append_row(self.evaluations, metrics["evaluation"].as_dict())


class ProgressBar(TrainerCallback):
    """A rich progress bar; where the output is not a terminal, a plain line every 30 seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[summary]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("train", total=None, summary="")
        self._last_line = 0.0  # time of the last plain line

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Start the bar at the step that the training starts from."""
        self._bar.update(self._task, total=state.max_steps, completed=state.global_step)
        self._bar.start()
        self._last_line = time.monotonic()

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any, **_: Any) -> None:
        """Advance the bar, or print a line when the last one is 30 seconds old."""
        step = TrainingStep.from_logs(state, logs)
        if step is None:
            return
        self._bar.update(self._task, completed=step.step, summary=summary(step))
        if self._console.is_terminal or time.monotonic() - self._last_line < _LINE_EVERY_S:
            return
        self._last_line = time.monotonic()
        self._print(f"step {step.step}/{state.max_steps}  {summary(step)}")

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Any, **_: Any) -> None:
        """Print one line above the bar."""
        evaluation = metrics["evaluation"]
        self._print(f"step {evaluation.step}: {evaluation.summary()}")

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Restore the terminal; harmless when called twice."""
        self._bar.stop()

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


def summary(step: TrainingStep) -> str:
    """A step in one line: loss, probability of the right token, gradient norm, learning rate, speed."""
    return (
        f"loss {step.loss:.4f}  p {step.right_token_probability:.3f}  grad {step.grad_norm:.2f}  "
        f"lr {step.learning_rate:.1e}  {step.tokens_per_s:.0f} tok/s"
    )
