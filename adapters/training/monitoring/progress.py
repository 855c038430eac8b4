"""The progress of a training: one JSON line per step for programs, a progress bar or a regular line for people."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from transformers import TrainerCallback, TrainerState

from adapters.training.data.jsonl import append_row, drop_steps_after
from adapters.training.evaluation.evaluator import GENERATIONS_LOG
from adapters.training.loop.callback import TrainingStep

STEPS_LOG = "log.jsonl"

_LINE_EVERY_S = 30.0


class JsonLog(TrainerCallback):
    """Writes ``log.jsonl`` (a line per step), ``evaluations.jsonl`` (per evaluation) and ``generations.jsonl`` (per
    answer of an evaluation) into a folder."""

    def __init__(self, folder: Path) -> None:
        self.steps = folder / STEPS_LOG
        self.evaluations = folder / "evaluations.jsonl"
        self.generations = folder / GENERATIONS_LOG

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Drop the lines of steps that a resumed training takes again."""
        for path in (self.steps, self.evaluations, self.generations):
            drop_steps_after(path, state.global_step)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any, **_: Any) -> None:
        if step := TrainingStep.from_logs(state, logs):
            append_row(self.steps, step.as_dict())

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Any, **_: Any) -> None:
        evaluation = metrics["evaluation"]
        append_row(self.evaluations, evaluation.as_dict())
        for generation in evaluation.generations:
            append_row(self.generations, {"step": evaluation.step, **generation.as_dict()})


class ProgressBar(TrainerCallback):
    """A rich progress bar; where the output is not a terminal, a plain line after the first step and every 30 s."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[summary]}"),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("train", total=None, summary="")
        self._last_line = -math.inf  # time of the last plain line
        self._began = (0, 0.0)  # step and time at which this process began

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Start the bar at the step that the training starts from."""
        self._bar.update(self._task, total=state.max_steps, completed=state.global_step)
        self._bar.start()
        self._began = state.global_step, monotonic()

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any, **_: Any) -> None:
        """Advance the bar, or print a line when the last one is 30 seconds old."""
        step = TrainingStep.from_logs(state, logs)
        if step is None:
            return
        first, since = self._began
        left = time_left(step.step - first, state.max_steps - first, monotonic() - since)
        shown = f"{summary(step)}  {left}"
        self._bar.update(self._task, completed=step.step, summary=shown)
        if self._console.is_terminal or monotonic() - self._last_line < _LINE_EVERY_S:
            return
        self._last_line = monotonic()
        self._print(f"step {step.step}/{state.max_steps}  {shown}")

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Any, **_: Any) -> None:
        """Print one line above the bar."""
        evaluation = metrics["evaluation"]
        self._print(f"step {evaluation.step}: {evaluation.summary()}")

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Restore the terminal; harmless when called twice."""
        self._bar.stop()

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


class MeasuringProgress:
    """Shows how many of ``total`` turns are answered: a bar, or a plain line every 30 seconds.

    A context manager whose value is called with the number of turns that were just answered.
    """

    def __init__(self, console: Console, what: str, total: int) -> None:
        self._console = console
        self._what = what
        self._total = total
        self._done = 0
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._bar.add_task(what, total=total, left="")
        self._began = self._last_line = monotonic()

    def __enter__(self) -> MeasuringProgress:
        if self._total:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, answered: int) -> None:
        """Add ``answered`` turns."""
        self._done += answered
        now = monotonic()
        left = time_left(self._done, self._total, now - self._began)
        self._bar.update(self._task, completed=self._done, left=left)
        if not self._console.is_terminal and now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self._console.print(f"{self._what}: {self._done}/{self._total}  {left}", highlight=False)


def time_left(done: int, total: int, elapsed_s: float) -> str:
    """The time that the rest takes if it goes on as before, such as ``1:02:03 left``; empty before the first unit."""
    if done <= 0:
        return ""
    return f"{timedelta(seconds=round(elapsed_s / done * max(total - done, 0)))} left"


def summary(step: TrainingStep) -> str:
    """A step in one line: loss, probability of the right token or the pairs' figures, gradient norm, rate, speed."""
    own = f"p {step.right_token_probability:.3f}"
    if step.won is not None and step.margin is not None:
        own = f"won {step.won:.2f}  margin {step.margin:.3f}"
    return (
        f"loss {step.loss:.4f}  {own}  grad {step.grad_norm:.2f}  "
        f"lr {step.learning_rate:.1e}  {step.tokens_per_s:.0f} tok/s"
    )
