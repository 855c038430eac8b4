"""Noticing that a training goes wrong, and saying in plain words what to do.

Thresholds on the gradient norm are relative to its own running median: what is usual depends on model, data and
rank. A low training loss alone is a hint, never an alarm: tool calls are rightly learned to almost nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.console import Console

from adapters.training.evaluation.metrics import Evaluation
from adapters.training.loop.callback import Step

WINDOW = 20
NORM_WINDOW = 50
LEAST_NORMS = 10
SPIKE = 10.0
RISEN = 1.3
STUCK = 0.97
LOW_LOSS = 0.3
GAP = 1.5
WORSE = 1.05
_SAID_AT_MOST = 3  # of the same rule; the record counts all


@dataclass(frozen=True, slots=True)
class Advice:
    """Something noticed after ``step``: by which rule, and what to do. ``alarm`` is False for a mere hint."""

    step: int
    rule: str
    text: str
    alarm: bool = True


class Health:
    """The rules, fed step by step. Pure: it is told things and answers with advice."""

    def __init__(self, *, learning_rate: float, max_grad_norm: float) -> None:
        self._rate = learning_rate
        self._clip = max_grad_norm
        self._norms: deque[float] = deque(maxlen=NORM_WINDOW)
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._first: float | None = None  # median of the first window
        self._best = float("inf")  # least median of a window so far
        self._best_evaluation: Evaluation | None = None
        self._on: set[str] = set()  # rules that hold now; each is told when it begins to hold

    def take(self, step: Step) -> list[Advice]:
        """What a step tells."""
        found = [self._gradient(step)]
        if step.is_finite:
            self._norms.append(step.grad_norm)
            self._losses.append(step.loss)
            found += self._loss(step.step)
        return [advice for advice in found if advice is not None]

    def evaluated(self, evaluation: Evaluation) -> list[Advice]:
        """What an evaluation tells."""
        best, now = self._best_evaluation, evaluation.loss
        if best is None or now < best.loss:
            self._best_evaluation = evaluation
        if best is None or not self._losses:
            return []
        train = median(self._losses)
        overfit = now > WORSE * best.loss and now > GAP * train
        return self._told(
            overfit,
            evaluation.step,
            "overfitting",
            f"the held-out loss rose to {now:.3f} from {best.loss:.3f} at step {best.step} while the training loss "
            f"is {train:.3f}: it learns the samples by heart. Fewer epochs, more or more varied data, a lower rank, "
            "or --patience 2.",
        )

    def _gradient(self, step: Step) -> Advice | None:
        if step.grad_norm == 0.0:
            return Advice(
                step.step,
                "no-gradient",
                "the gradient norm is exactly 0: this step taught nothing. No token of it is trained, or the "
                "adapter is cut off from the loss; look at the data with --check.",
            )
        usual = median(self._norms) if len(self._norms) >= LEAST_NORMS else None
        if usual and step.grad_norm > SPIKE * usual:
            return Advice(
                step.step,
                "gradient-spike",
                f"the gradient norm {step.grad_norm:.2f} is {step.grad_norm / usual:.0f} times its usual "
                f"{usual:.2f}; it was clipped to {self._clip:g}. One odd sample is harmless; if it comes again, "
                f"look at the data of these steps or lower the learning rate to {self._rate / 3:.0e}.",
            )
        return None

    def _loss(self, step: int) -> list[Advice]:
        if len(self._losses) < WINDOW:
            return []
        now = median(self._losses)
        if self._first is None:
            self._first = now
        rising = now > RISEN * self._best and now > self._best + 0.1
        self._best = min(self._best, now)
        stuck = step >= 2 * WINDOW and now > STUCK * self._first and now > LOW_LOSS and not rising
        return [
            *self._told(
                rising,
                step,
                "loss-rising",
                f"the loss rose to {now:.3f} from {self._best:.3f}: the learning rate {self._rate:.0e} is too "
                f"high. Try {self._rate / 3:.0e}, or a longer warm-up.",
            ),
            *self._told(
                stuck,
                step,
                "loss-stuck",
                f"the loss has hardly moved from {self._first:.3f} in {step} steps. Try the learning rate "
                f"{3 * self._rate:.0e}, more targets or a higher rank; look at the labels with --check.",
            ),
            *self._told(
                now < LOW_LOSS,
                step,
                "low-loss",
                f"the training loss is below {LOW_LOSS}. That is no fault by itself, tool calls are learned that "
                "well; compare it with the held-out loss.",
                alarm=False,
            ),
        ]

    def _told(self, holds: bool, step: int, rule: str, text: str, *, alarm: bool = True) -> list[Advice]:
        """The advice where the rule begins to hold, and nothing while it goes on holding."""
        begins = holds and rule not in self._on
        (self._on.add if holds else self._on.discard)(rule)
        return [Advice(step, rule, text, alarm)] if begins else []


class HealthWatch:
    """Prints what `Health` says, and keeps it for the record."""

    def __init__(self, console: Console, health: Health) -> None:
        self._console = console
        self._health = health
        self._found: list[Advice] = []
        self._counts: Counter[str] = Counter()

    def begin(self, done_steps: int, max_steps: int) -> None:
        """Nothing to prepare: the rules look at the steps of this run."""

    def take(self, step: Step) -> None:
        """A step was made."""
        self._say(self._health.take(step))

    def evaluated(self, evaluation: Evaluation) -> None:
        """The held-out chats were looked at."""
        self._say(self._health.evaluated(evaluation))

    def end(self) -> None:
        """Nothing is held."""

    def record(self) -> list[dict[str, Any]]:
        """For ``training.json``: the first of every rule with how often it came."""
        first: dict[str, Advice] = {}
        for advice in self._found:
            first.setdefault(advice.rule, advice)
        return [asdict(a) | {"times": self._counts[a.rule]} for a in first.values()]

    def _say(self, found: list[Advice]) -> None:
        for advice in found:
            self._counts[advice.rule] += 1
            self._found.append(advice)
            if self._counts[advice.rule] <= _SAID_AT_MOST:
                word, style = ("health", "yellow") if advice.alarm else ("hint", "dim")
                self._console.print(
                    f"{word}, step {advice.step}: {advice.text}", style=style, highlight=False
                )
