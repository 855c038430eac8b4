"""Callbacks of transformers' Trainer that every training needs, and the record of one optimizer step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState

from adapters.training.errors import DivergedError
from adapters.training.loop.checkpoint import write_manifest


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One optimizer step. ``tokens`` counts all tokens of its forward passes, padding included."""

    step: int
    epoch: float
    loss: float
    grad_norm: float  # before clipping
    learning_rate: float
    tokens: int
    step_s: float
    won: float | None = (
        None  # with pairs of answers: share whose better answer gained more than the worse one
    )
    margin: float | None = None  # beta times the mean difference of these gains, in nats
    chosen_reward: float | None = None  # beta times the mean gain of the better answers

    @classmethod
    def from_logs(cls, state: TrainerState, logs: Mapping[str, Any]) -> TrainingStep | None:
        """The step that Trainer logs, with the figures of ``StepTimer``; None for logs of something else."""
        if "loss" not in logs:
            return None
        return cls(
            step=state.global_step,
            epoch=float(state.epoch or 0),
            loss=float(logs["loss"]),
            grad_norm=float(logs.get("grad_norm", math.nan)),
            learning_rate=float(logs["learning_rate"]),
            tokens=int(logs["tokens"]),
            step_s=float(logs["step_s"]),
            won=logs.get("rewards/accuracies"),
            margin=logs.get("rewards/margins"),
            chosen_reward=logs.get("rewards/chosen"),
        )

    @property
    def right_token_probability(self) -> float:
        """exp(-loss): the geometric mean of the probabilities of the right tokens."""
        return math.exp(-self.loss)

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second since the previous step."""
        return self.tokens / self.step_s if self.step_s > 0 else 0.0

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient norm are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)

    def as_dict(self) -> dict[str, Any]:
        """A line of ``log.jsonl``; values that are not finite become null."""
        of_pairs = {"won": self.won, "margin": self.margin, "chosen_reward": self.chosen_reward}
        of_chats = {"right_token_probability": self.right_token_probability}
        own = of_chats if self.won is None else of_pairs
        return {
            "step": self.step,
            "epoch": round(self.epoch, 4),
            "loss": _finite(self.loss),
            **{name: _finite(value) for name, value in own.items() if value is not None},
            "grad_norm": _finite(self.grad_norm),
            "learning_rate": _finite(self.learning_rate),
            "tokens": self.tokens,
            "tokens_per_s": round(self.tokens_per_s, 1),
            "step_s": round(self.step_s, 4),
        }


class StepTimer(TrainerCallback):
    """Adds tokens, seconds and speed of the single step to Trainer's logs, so that all later callbacks see them.

    transformers' own speed figures are averages over the whole run. The time of an evaluation is not counted.
    """

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._tokens = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Start at the checkpoint that the training resumes from."""
        self._started, self._tokens = time.perf_counter(), int(state.num_input_tokens_seen)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any, **_: Any) -> None:
        """Extend the logs of a step."""
        if "loss" not in logs:
            return
        now, tokens = time.perf_counter(), int(state.num_input_tokens_seen)
        step_s = now - self._started
        logs |= {
            "tokens": tokens - self._tokens,
            "step_s": step_s,
            "tokens_per_s": (tokens - self._tokens) / step_s,
        }
        if "rewards/margins" not in logs:  # the loss of pairs is no mean over tokens
            logs["right_token_probability"] = math.exp(-logs["loss"])
        self._started, self._tokens = now, tokens

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Leave the evaluation out of the next step's time."""
        self._started = time.perf_counter()


class StopOnNonFiniteGradient(TrainerCallback):
    """Stops a training before a NaN or infinite gradient changes the weights.

    Args:
        log: Trainer's ``log``; the broken step gets a line in the logs.
    """

    def __init__(self, log: Callable[[dict[str, float]], None]) -> None:
        self._log = log

    def on_pre_optimizer_step(
        self, args: Any, state: TrainerState, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Called by Trainer after the backward pass, before the optimizer changes the weights.

        Raises:
            DivergedError: the gradient is not finite; the weights are still those of the previous step.
        """
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        if not grads or bool(torch.isfinite(torch.nn.utils.get_total_norm(grads))):
            return
        state.global_step += 1  # the broken step's number in the logs; it is never saved
        self._log({"loss": math.nan, "grad_norm": math.nan, "learning_rate": math.nan})
        raise DivergedError(
            f"Step {state.global_step}: the gradient is not finite. Lower the learning rate, or check the data "
            "of this step."
        )


class CheckpointManifest(TrainerCallback):
    """Writes the manifest of every checkpoint once all its files exist."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Evaluate as the configuration says: Trainer takes over the interval that a checkpoint was saved with."""
        state.eval_steps = args.eval_steps or state.eval_steps

    def on_save(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Called by Trainer after it wrote a checkpoint."""
        if state.is_world_process_zero:
            write_manifest(Path(args.output_dir) / f"checkpoint-{state.global_step}", self._fingerprint)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
