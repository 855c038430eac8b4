"""Telling how a training goes: one JSON line per step for programs, a bar or now and then a line for people."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adapters.training.evaluation.metrics import Evaluation
from adapters.training.loop.callback import Step

_LINE_EVERY_S = 30.0


class StepLog:
    """Writes ``log.jsonl`` (a line per step) and ``evaluations.jsonl`` (a line per evaluation) into a folder."""

    def __init__(self, folder: Path) -> None:
        self.steps = folder / "log.jsonl"
        self.evaluations = folder / "evaluations.jsonl"

    def begin(self, done_steps: int, max_steps: int) -> None:
        """Drop lines of steps that a resumed training takes again."""
        for path in (self.steps, self.evaluations):
            if path.is_file():
                rows = [row for row in read_rows(path) if row["step"] <= done_steps]
                path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def take(self, step: Step) -> None:
        """Append a step."""
        _append(self.steps, step.as_dict())

    def evaluated(self, evaluation: Evaluation) -> None:
        """Append an evaluation."""
        _append(self.evaluations, evaluation.as_dict())

    def end(self) -> None:
        """Nothing is held open."""


class ProgressBar:
    """A rich progress bar; where the output is no terminal, a plain line every half a minute."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("train", total=None, told="")
        self._max_steps = 0
        self._told_at_s = 0.0

    def begin(self, done_steps: int, max_steps: int) -> None:
        """Start the bar at the step the training starts from."""
        self._max_steps = max_steps
        self._bar.update(self._task, total=max_steps, completed=done_steps)
        self._bar.start()
        self._told_at_s = time.monotonic()

    def take(self, step: Step) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=step.step, told=told(step))
        if self._console.is_terminal or time.monotonic() - self._told_at_s < _LINE_EVERY_S:
            return
        self._told_at_s = time.monotonic()
        self._console.print(
            f"step {step.step}/{self._max_steps}  {told(step)}", highlight=False, soft_wrap=True
        )

    def evaluated(self, evaluation: Evaluation) -> None:
        """One line above the bar."""
        self._console.print(f"step {evaluation.step}: {evaluation.told()}", highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Give the terminal back."""
        self._bar.stop()


def told(step: Step) -> str:
    """A step in one line: loss, probability of the right token, gradient norm, learning rate, speed."""
    return (
        f"loss {step.loss:.4f}  p {step.right_token_probability:.3f}  grad {step.grad_norm:.2f}  "
        f"lr {step.learning_rate:.1e}  {step.tokens_per_s:.0f} tok/s"
    )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a log that have a step; a line that a kill cut short is passed over."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
