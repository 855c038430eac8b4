"""A training that dies in the middle, and what it left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from adapters.training import training_run as run
from adapters.training.config import TrainingConfig
from adapters.training.loop import trainer as loop


class _KillError(BaseException):
    """Stands for kill -9: nothing may catch it."""


class _KillAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise _KillError


def kill_at(monkeypatch: pytest.MonkeyPatch, config: TrainingConfig, step: int) -> None:
    """Run ``config`` until ``step`` steps are done, then die."""
    true_loop = loop.run_loop

    def dying(trainer: Any, fingerprint: str) -> int:
        trainer.add_callback(_KillAt(step))
        return true_loop(trainer, fingerprint)

    with monkeypatch.context() as patch:
        patch.setattr(run, "run_loop", dying)
        with pytest.raises(_KillError):
            run.train(config)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter_model.safetensors")


def assert_same(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def steps_logged(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
