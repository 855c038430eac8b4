"""What people and programs are told of a training, and when it is stopped."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from adapters.training.errors import DivergedError
from adapters.training.evaluation.metrics import Evaluation
from adapters.training.loop.callback import Schedule, Step, Watch
from adapters.training.monitoring import progress
from adapters.training.monitoring.progress import ProgressBar, StepLog, read_rows

STEP = Step(step=3, epoch=0.3, loss=0.5, grad_norm=1.5, learning_rate=1e-3, tokens=100, step_s=0.25)
LOGS = {"loss": 0.5, "grad_norm": 1.5, "learning_rate": 1e-3}


class Ears:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def begin(self, done_steps: int, max_steps: int) -> None:
        self.heard.append((done_steps, max_steps))

    def take(self, step: Step) -> None:
        self.heard.append(step)

    def evaluated(self, evaluation: Evaluation) -> None:
        self.heard.append(evaluation)

    def end(self) -> None:
        self.heard.append("end")


@pytest.fixture
def arguments(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")


@pytest.fixture
def log(arguments: TrainingArguments) -> Callable[..., TrainerControl]:
    """Tell a watch that a step was logged."""

    def tell(watch: Watch, state: TrainerState, **logs: float) -> TrainerControl:
        control = TrainerControl()
        watch.on_log(arguments, state, control, logs=LOGS | logs)
        return control

    return tell


def state_at(step: int, *, epoch: float | None = None, tokens: int = 0) -> TrainerState:
    return TrainerState(
        global_step=step,
        max_steps=10,
        epoch=step / 10 if epoch is None else epoch,
        num_input_tokens_seen=tokens,
    )


def test_the_bar_tells_everything_on_a_terminal() -> None:
    out = io.StringIO()
    bar = ProgressBar(Console(file=out, force_terminal=True, width=160))
    bar.begin(0, 10)
    bar.take(STEP)
    bar.evaluated(Evaluation(3, 0.25))
    bar.end()
    bar.end()
    shown = out.getvalue()
    assert "3/10" in shown and "loss 0.5000  p 0.607  grad 1.50  lr 1.0e-03  400 tok/s" in shown
    assert "step 3: held-out loss 0.2500  perplexity 1.284" in shown


def test_a_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    bar = ProgressBar(Console(file=out, force_terminal=False, width=120))
    bar.begin(0, 10)
    bar.take(STEP)
    assert out.getvalue() == ""
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    bar.take(STEP)
    assert out.getvalue() == "step 3/10  loss 0.5000  p 0.607  grad 1.50  lr 1.0e-03  400 tok/s\n"


def test_a_step_is_one_line_of_json(tmp_path: Path) -> None:
    log = StepLog(tmp_path)
    log.begin(0, 10)
    log.take(STEP)
    log.take(replace(STEP, step=4, loss=math.nan))
    first, second = (json.loads(line) for line in log.steps.read_text().splitlines())
    assert first == {
        "step": 3, "epoch": 0.3, "loss": 0.5, "right_token_probability": pytest.approx(0.60653, abs=1e-5),
        "grad_norm": 1.5, "learning_rate": 1e-3, "tokens": 100, "tokens_per_s": 400.0, "step_s": 0.25,
    }  # fmt: skip
    assert (second["loss"], second["right_token_probability"]) == (None, None)


def test_a_resumed_log_forgets_what_is_done_again(tmp_path: Path) -> None:
    log = StepLog(tmp_path)
    log.steps.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    log.evaluations.write_text('{"step": 2}\n{"step": 3}\n')
    log.begin(2, 10)
    assert [row["step"] for row in read_rows(log.steps)] == [1, 2]
    assert log.evaluations.read_text() == '{"step": 2}\n'


def test_steps_are_made_of_what_the_trainer_logs(arguments: TrainingArguments, log: Callable) -> None:
    ears = Ears()
    watch = Watch([ears])
    watch.on_train_begin(arguments, state_at(2, tokens=70), TrainerControl())
    log(watch, state_at(3, tokens=100))
    watch.on_log(arguments, state_at(3), TrainerControl(), logs={"train_runtime": 1.0})
    watch.on_train_end(arguments, state_at(3), TrainerControl())
    begun, step, end = ears.heard
    assert (begun, end) == ((2, 10), "end")
    assert (step.step, step.tokens, step.loss, step.grad_norm) == (3, 30, 0.5, 1.5)
    assert step.step_s > 0


def test_other_processes_stay_silent(arguments: TrainingArguments, log: Callable) -> None:
    ears = Ears()
    log(Watch([ears]), TrainerState(global_step=1, max_steps=2, is_world_process_zero=False))
    assert ears.heard == []


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_gradient_is_told_and_stops_before_it_is_applied(
    arguments: TrainingArguments, broken: float
) -> None:
    ears, model = Ears(), torch.nn.Linear(2, 2)
    watch = Watch([ears])
    model.weight.grad = torch.ones(2, 2)
    watch.on_pre_optimizer_step(arguments, state_at(3), TrainerControl(), model=model)
    assert ears.heard == []
    model.weight.grad[0, 1] = broken
    with pytest.raises(DivergedError, match="Step 4: the gradient is not finite"):
        watch.on_pre_optimizer_step(arguments, state_at(3), TrainerControl(), model=model)
    assert [step.as_dict()["loss"] for step in ears.heard] == [None]


@pytest.mark.parametrize(
    ("every", "due"),
    [(3, [3, 6, 9, 10]), (0, [5, 10]), (-1, [10])],
)
def test_evaluations_come_when_they_are_due(log: Callable, every: int, due: list[int]) -> None:
    ears = Ears()
    watch = Watch([ears], Schedule(every), lambda model, step: (Evaluation(step, 1.0), False))
    for step in range(1, 11):
        log(watch, state_at(step, epoch=step / 5))
    assert [e.step for e in ears.heard if isinstance(e, Evaluation)] == due


def test_a_training_stops_when_an_evaluation_says_so(log: Callable) -> None:
    watch = Watch([], Schedule(1), lambda model, step: (Evaluation(step, 1.0), step == 2))
    assert [log(watch, state_at(step)).should_training_stop for step in (1, 2)] == [False, True]
