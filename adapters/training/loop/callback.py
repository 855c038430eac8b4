"""Watching a training: what a step was, who wants to know, and when the held-out chats are looked at."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adapters.training.errors import DivergedError
from adapters.training.evaluation.metrics import Evaluation


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step. ``tokens``: all that went through the model, padding too."""

    step: int
    epoch: float
    loss: float
    grad_norm: float  # before clipping
    learning_rate: float
    tokens: int
    step_s: float

    @property
    def right_token_probability(self) -> float:
        """exp(-loss): the geometric mean of what the right tokens were given."""
        return math.exp(-self.loss)

    @property
    def tokens_per_s(self) -> float:
        """Tokens over the time since the step before."""
        return self.tokens / self.step_s if self.step_s > 0 else 0.0

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)

    def as_dict(self) -> dict[str, Any]:
        """A line of ``log.jsonl``; null stands where JSON has no word."""
        return {
            "step": self.step,
            "epoch": round(self.epoch, 4),
            "loss": _number(self.loss),
            "right_token_probability": _number(self.right_token_probability),
            "grad_norm": _number(self.grad_norm),
            "learning_rate": _number(self.learning_rate),
            "tokens": self.tokens,
            "tokens_per_s": round(self.tokens_per_s, 1),
            "step_s": round(self.step_s, 4),
        }


class Sink(Protocol):
    """One who is told how a training goes."""

    def begin(self, done_steps: int, max_steps: int) -> None:
        """It starts, or goes on, behind step ``done_steps``."""

    def take(self, step: Step) -> None:
        """A step was made."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """The held-out chats were looked at."""

    def end(self) -> None:
        """It is over, however; harmless when said twice."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to evaluate: every so many steps, 0 for once an epoch, -1 for the last step only."""

    every: int

    def is_due(self, state: TrainerState) -> bool:
        """Whether it is time, after the step that ``state`` stands behind."""
        if state.global_step >= state.max_steps:
            return True
        if self.every > 0:
            return bool(state.global_step % self.every == 0)
        return self.every == 0 and float(state.epoch or 0).is_integer()


#: Evaluates a model after a step; the second value says whether the training should stop there.
Evaluate = Callable[[Any, int], tuple[Evaluation, bool]]


class Watch(TrainerCallback):
    """Turns Trainer's logs into steps and hands them out, evaluates, and stops a training that broke."""

    def __init__(
        self, sinks: Sequence[Sink], schedule: Schedule | None = None, evaluate: Evaluate | None = None
    ) -> None:
        self._sinks = sinks
        self._schedule = schedule
        self._evaluate = evaluate
        self._since = time.perf_counter()
        self._tokens = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Called by Trainer, after it read the checkpoint that it goes on from."""
        for sink in self._sinks_of(state):
            sink.begin(state.global_step, state.max_steps)
        self._since, self._tokens = time.perf_counter(), int(state.num_input_tokens_seen)

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Called by Trainer with the gradients of a step, before they change the weights.

        Raises:
            DivergedError: they are not finite; the weights are still those of the last good step.
        """
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        if not grads or bool(torch.isfinite(torch.nn.utils.get_total_norm(grads))):
            return
        broken = {"loss": math.nan, "grad_norm": math.nan, "learning_rate": math.nan}
        step = replace(self._step(state, broken), step=state.global_step + 1)
        for sink in self._sinks_of(state):
            sink.take(step)
        raise DivergedError(
            f"Step {step.step}: the gradient is not finite. Lower the learning rate, or look at this step's data."
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Any = None,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Called by Trainer after every step; the step is told before any checkpoint of it is written."""
        if not logs or "loss" not in logs:
            return
        step = self._step(state, logs)
        for sink in self._sinks_of(state):
            sink.take(step)
        if self._evaluate is not None and self._schedule is not None and self._schedule.is_due(state):
            evaluation, enough = self._evaluate(model, step.step)
            for sink in self._sinks_of(state):
                sink.evaluated(evaluation)
            control.should_training_stop |= enough
        self._since = time.perf_counter()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Called by Trainer when the last step is made."""
        self.end()

    def end(self) -> None:
        """Tell everybody that it is over; harmless when done already."""
        for sink in self._sinks:
            sink.end()

    def _step(self, state: TrainerState, logs: dict[str, Any]) -> Step:
        tokens = int(state.num_input_tokens_seen)
        step = Step(
            step=state.global_step,
            epoch=float(state.epoch or 0),
            loss=float(logs["loss"]),
            grad_norm=float(logs.get("grad_norm", math.nan)),
            learning_rate=float(logs["learning_rate"]),
            tokens=tokens - self._tokens,
            step_s=time.perf_counter() - self._since,
        )
        self._tokens = tokens
        return step

    def _sinks_of(self, state: TrainerState) -> Sequence[Sink]:
        """The first process alone tells."""
        return self._sinks if state.is_world_process_zero else ()


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
