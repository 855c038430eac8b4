"""Trackers that people already look at: TensorBoard, and Weights & Biases without a connection."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.training.errors import WatchingError
from adapters.training.evaluation.metrics import Evaluation
from adapters.training.loop.callback import Step


class TensorBoard:
    """Writes events into ``folder``; lines of steps that are taken again are hidden."""

    def __init__(self, folder: Path) -> None:
        self._module = _library("torch.utils.tensorboard", "tensorboard", "--tensorboard")
        self._folder = folder
        self._writer: Any = None

    def begin(self, done_steps: int, max_steps: int) -> None:
        """Open the file."""
        self._writer = self._module.SummaryWriter(str(self._folder), purge_step=done_steps + 1)

    def take(self, step: Step) -> None:
        """A point on each curve."""
        for name, value in _numbers("train", step.as_dict()).items():
            self._writer.add_scalar(name, value, step.step)

    def evaluated(self, evaluation: Evaluation) -> None:
        """A point on each curve of the evaluations."""
        for name, value in _numbers("eval", evaluation.as_dict()).items():
            self._writer.add_scalar(name, value, evaluation.step)

    def end(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class Wandb:
    """Logs to a W&B project: into ``folder/wandb``, for ``wandb sync``, or ``online`` as it goes."""

    def __init__(
        self, folder: Path, *, project: str, online: bool, name: str, config: Mapping[str, Any]
    ) -> None:
        self._module = _library("wandb", "wandb", "--wandb")
        self._folder = folder
        self._mode = "online" if online else "offline"
        self._project, self._name, self._config = project, name, dict(config)
        self._run: Any = None

    def begin(self, done_steps: int, max_steps: int) -> None:
        """Start a run."""
        quiet = self._module.Settings(silent=True, console="off")
        self._run = self._module.init(
            project=self._project,
            name=self._name,
            config=self._config,
            dir=str(self._folder),
            mode=self._mode,
            settings=quiet,
        )

    def take(self, step: Step) -> None:
        """A point on each curve."""
        self._run.log(_numbers("train", step.as_dict()), step=step.step)

    def evaluated(self, evaluation: Evaluation) -> None:
        """A point on each curve of the evaluations."""
        self._run.log(_numbers("eval", evaluation.as_dict()), step=evaluation.step)

    def end(self) -> None:
        """Finish the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def _library(module: str, package: str, flag: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise WatchingError(
            f"{flag} needs {package}: pip install {package}, or leave {flag} out; log.jsonl has the same figures."
        ) from error


def _numbers(group: str, row: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{group}/{name}": float(value)
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float)
    }
