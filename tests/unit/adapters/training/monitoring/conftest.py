"""Events of transformers' Trainer, as the callbacks get them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adapters.training.evaluation.metrics import Evaluation
from adapters.training.loop.callback import TrainingStep

Send = Callable[..., None]


@pytest.fixture
def send(tmp_path: Path) -> Send:
    """Sends an event to a callback, after the step ``at`` of ten."""
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")

    def event(callback: TrainerCallback, name: str, at: int = 0, **more: Any) -> None:
        state = TrainerState(global_step=at, max_steps=10, epoch=at / 10)
        getattr(callback, name)(arguments, state, TrainerControl(), **more)

    return event


@pytest.fixture
def send_step(send: Send) -> Callable[[TrainerCallback, TrainingStep], None]:
    """Sends a step as Trainer logs it."""

    def event(callback: TrainerCallback, step: TrainingStep) -> None:
        names = ("loss", "grad_norm", "learning_rate", "tokens", "step_s", "tokens_per_s")
        send(callback, "on_log", step.step, logs={name: getattr(step, name) for name in names})

    return event


@pytest.fixture
def send_evaluation(send: Send) -> Callable[[TrainerCallback, Evaluation], None]:
    """Sends an evaluation as ``LoraTrainer`` reports it: first its figures, then the record."""

    def event(callback: TrainerCallback, evaluation: Evaluation) -> None:
        figures = {f"eval_{name}": value for name, value in evaluation.figures().items()}
        send(callback, "on_log", evaluation.step, logs=figures)
        send(callback, "on_evaluate", evaluation.step, metrics={"evaluation": evaluation})

    return event
