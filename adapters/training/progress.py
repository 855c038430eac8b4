"""Watching a training: one JSON line per step, a progress bar for people, a stop when the loss breaks."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adapters.training.errors import DivergedError


class StepLog(TrainerCallback):
    """Writes ``log.jsonl``: step, epoch, loss, probability of the right token, gradient norm, rate, time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._since = time.perf_counter()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Drop lines of steps that a resumed training takes again."""
        self._since = time.perf_counter()
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
        kept = [line for line in lines if _step(line) is not None and (_step(line) or 0) <= state.global_step]
        self._path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Any = None,
        **_: Any,
    ) -> None:
        """Called by Trainer after every step; the line goes out before any checkpoint of that step.

        Raises:
            DivergedError: the loss or the gradient norm is not finite.
        """
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        now = time.perf_counter()
        loss = float(logs["loss"])
        norm = float(logs.get("grad_norm", math.nan))
        row = {
            "step": state.global_step,
            "epoch": round(float(state.epoch or 0), 4),
            "loss": _number(loss),
            "right_token_probability": _number(math.exp(-loss)),
            "grad_norm": _number(norm),
            "learning_rate": logs["learning_rate"],
            "step_s": round(now - self._since, 4),
        }
        self._since = now
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise DivergedError(
                f"Step {state.global_step}: loss {loss}, gradient norm {norm}. The last whole checkpoint is "
                "kept. Lower the learning rate, or look at the data of this step."
            )


class ProgressBar(TrainerCallback):
    """A rich progress bar; nothing where the output is no terminal."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  p {task.fields[p]:.3f}  grad {task.fields[norm]:.2f}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("train", total=None, loss=0.0, p=0.0, norm=0.0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the bar at the step the training starts from."""
        self._bar.update(self._task, total=state.max_steps, completed=state.global_step)
        self._bar.start()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Any = None,
        **_: Any,
    ) -> None:
        """Move the bar."""
        if logs and "loss" in logs:
            loss, norm = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
            self._bar.update(self._task, completed=state.global_step, loss=loss, p=math.exp(-loss), norm=norm)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Leave the bar as it ended."""
        self.stop()

    def stop(self) -> None:
        """Give the terminal back; harmless when done already."""
        self._bar.stop()


def _number(value: float) -> float | None:
    """``value``, or null where JSON has no word for it."""
    return value if math.isfinite(value) else None


def _step(line: str) -> int | None:
    """The step of a log line; None for one that a kill cut short."""
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return None
