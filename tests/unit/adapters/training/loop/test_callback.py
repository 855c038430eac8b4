"""Steps and their figures, evaluations and when they are due, and how a diverging training stops."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Sample
from adapters.training.errors import DivergedError
from adapters.training.evaluation.metrics import Evaluation
from adapters.training.loop.callback import StepTimer, StopOnNonFiniteGradient, TrainingStep
from adapters.training.loop.trainer import LoraTrainer, run_loop
from adapters.training.model.lora import add_lora

LOGS = {"loss": 0.5, "grad_norm": 1.5, "learning_rate": 1e-3}


class Recorder(TrainerCallback):
    """Records steps, evaluations and the end."""

    def __init__(self) -> None:
        self.steps: list[TrainingStep | None] = []
        self.figures: list[dict[str, float]] = []
        self.evaluations: list[int] = []
        self.ended = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if step := TrainingStep.from_logs(state, logs):
            self.steps.append(step)
        elif "eval_held_out_loss" in logs:
            self.figures.append(dict(logs))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        self.evaluations.append(metrics["evaluation"].step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ended += 1


@pytest.fixture
def arguments(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")


def test_the_timer_counts_the_tokens_and_seconds_of_one_step(arguments: TrainingArguments) -> None:
    timer, control = StepTimer(), TrainerControl()
    timer.on_train_begin(arguments, TrainerState(global_step=2, num_input_tokens_seen=70), control)
    logs: dict[str, Any] = dict(LOGS)
    state = TrainerState(global_step=3, num_input_tokens_seen=100)
    timer.on_log(arguments, state, control, logs=logs)
    step = TrainingStep.from_logs(state, logs)
    assert step is not None
    assert (step.step, step.tokens, step.loss, step.grad_norm) == (3, 30, 0.5, 1.5)
    assert step.step_s > 0
    assert logs["tokens_per_s"] == step.tokens_per_s
    assert logs["right_token_probability"] == step.right_token_probability
    other = {"train_runtime": 1.0}
    timer.on_log(arguments, state, control, logs=other)
    assert other == {"train_runtime": 1.0} and TrainingStep.from_logs(state, other) is None


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_gradient_is_logged_and_stops_before_it_is_applied(
    arguments: TrainingArguments, broken: float
) -> None:
    logged: list[dict[str, float]] = []
    callback, model = StopOnNonFiniteGradient(logged.append), torch.nn.Linear(2, 2)
    state = TrainerState(global_step=3)
    model.weight.grad = torch.ones(2, 2)
    callback.on_pre_optimizer_step(arguments, state, TrainerControl(), model=model)
    assert logged == []
    model.weight.grad[0, 1] = broken
    with pytest.raises(DivergedError, match="Step 4: the gradient is not finite"):
        callback.on_pre_optimizer_step(arguments, state, TrainerControl(), model=model)
    (row,) = logged
    assert all(math.isnan(value) for value in row.values()) and state.global_step == 4


def run(config: TrainingConfig, samples: list[Sample], patience_used_up_at: int = 0) -> Recorder:
    """Train with an evaluator that does nothing else; what a callback saw."""
    model = add_lora(AutoModelForCausalLM.from_pretrained(config.base, dtype=torch.float32), config)
    recorder = Recorder()

    def evaluator(_: Any, step: int) -> tuple[Evaluation, bool]:
        return Evaluation(step, 1.0), step == patience_used_up_at

    trainer = LoraTrainer(
        model=model,
        config=config,
        samples=samples,
        pad_id=0,
        evaluator=evaluator,  # type: ignore[arg-type]
        callbacks=[recorder],
    )
    run_loop(trainer, "f")
    return recorder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("every", "due"),
    [(3, [3, 6, 8]), (0, [3, 6, 8]), (5, [5, 8]), (-1, [8])],
)
def test_evaluations_take_place_when_they_are_due(
    configure: Callable[..., TrainingConfig], samples: list[Sample], every: int, due: list[int]
) -> None:
    """24 samples in batches of 8: an epoch has three steps."""
    seen = run(configure(max_steps=8, evaluate_every=every), samples)
    assert seen.evaluations == due
    assert [row["eval_held_out_loss"] for row in seen.figures] == [1.0] * len(due)
    assert [step.step for step in seen.steps if step] == list(range(1, 9))
    assert seen.ended == 1


def test_a_training_stops_when_patience_is_used_up(
    configure: Callable[..., TrainingConfig], samples: list[Sample]
) -> None:
    assert run(configure(max_steps=8, evaluate_every=1), samples, 2).evaluations == [1, 2]


def test_callbacks_end_when_a_training_diverges(
    configure: Callable[..., TrainingConfig], samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    true_loss = LoraTrainer.compute_loss

    def breaking(self: LoraTrainer, *args: Any, **kwargs: Any) -> Any:
        return true_loss(self, *args, **kwargs) * float("nan")

    ended: list[int] = []
    monkeypatch.setattr(LoraTrainer, "compute_loss", breaking)
    monkeypatch.setattr(Recorder, "on_train_end", lambda *_, **__: ended.append(1))
    with pytest.raises(DivergedError, match="Step 1: the gradient is not finite"):
        run(configure(), samples)
    assert ended == [1]
