"""Detects that a training goes wrong, and says in plain words what to change.

Thresholds on the gradient norm are relative to its own running median: normal values depend on model, data and
rank. A low training loss alone is a hint and never an alarm: tool calls are legitimately learned to almost zero.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.console import Console
from transformers import TrainerCallback, TrainerState

from adapters.training.evaluation.metrics import Evaluation
from adapters.training.loop.callback import TrainingStep

WINDOW = 20  # losses in a median
NORM_WINDOW = 50  # gradient norms in the running median
LEAST_NORMS = 10  # before that there is no normal value
SPIKE = 10.0  # times the normal gradient norm
RISEN = 1.3  # times the lowest median loss
STUCK = 0.97  # of the first median loss
LOW_LOSS = 0.3
GAP = 1.5  # held-out loss over training loss
WORSE = 1.05  # held-out loss over the best one
_PRINTED_AT_MOST = 3  # of the same rule; the report counts all


@dataclass(frozen=True, slots=True)
class Anomaly:
    """What ``rule`` found after ``step``, and what to change. ``alarm`` is False for a mere hint."""

    step: int
    rule: str
    text: str
    alarm: bool = True


class AnomalyDetector:
    """The rules, fed step by step. It has no side effects and returns what it finds."""

    def __init__(self, *, learning_rate: float, max_grad_norm: float) -> None:
        self._rate = learning_rate
        self._clip = max_grad_norm
        self._norms: deque[float] = deque(maxlen=NORM_WINDOW)
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._first: float | None = None  # median of the first window
        self._lowest = float("inf")  # lowest median of a window so far
        self._best_evaluation: Evaluation | None = None
        self._active: set[str] = set()  # rules that hold now; each is reported when it begins to hold

    def add_step(self, step: TrainingStep) -> list[Anomaly]:
        """The anomalies of a step."""
        found = [self._check_gradient(step)]
        if step.is_finite:
            self._norms.append(step.grad_norm)
            self._losses.append(step.loss)
            found += self._check_loss(step.step)
        return [anomaly for anomaly in found if anomaly is not None]

    def add_evaluation(self, evaluation: Evaluation) -> list[Anomaly]:
        """The anomalies of an evaluation."""
        best, now = self._best_evaluation, evaluation.loss
        if best is None or now < best.loss:
            self._best_evaluation = evaluation
        if best is None or not self._losses:
            return []
        train = median(self._losses)
        overfit = now > WORSE * best.loss and now > GAP * train
        return self._report_start(
            overfit,
            evaluation.step,
            "overfitting",
            f"the held-out loss rose to {now:.3f} from {best.loss:.3f} at step {best.step} while the training loss "
            f"is {train:.3f}: the model memorises the samples. Use fewer epochs, more or more varied data, a lower "
            "rank, or --patience 2.",
        )

    def _check_gradient(self, step: TrainingStep) -> Anomaly | None:
        if step.grad_norm == 0.0:
            return Anomaly(
                step.step,
                "no-gradient",
                "the gradient norm is exactly 0: this step learned nothing. It has no trained token, or the loss "
                "does not depend on the adapter; check the data with --check.",
            )
        normal = median(self._norms) if len(self._norms) >= LEAST_NORMS else None
        if normal and step.grad_norm > SPIKE * normal:
            return Anomaly(
                step.step,
                "gradient-spike",
                f"the gradient norm {step.grad_norm:.2f} is {step.grad_norm / normal:.0f} times its usual "
                f"{normal:.2f}; it was clipped to {self._clip:g}. One unusual sample is harmless; if it happens "
                f"again, check the data of these steps or lower the learning rate to {self._rate / 3:.0e}.",
            )
        return None

    def _check_loss(self, step: int) -> list[Anomaly]:
        if len(self._losses) < WINDOW:
            return []
        now = median(self._losses)
        if self._first is None:
            self._first = now
        rising = now > RISEN * self._lowest and now > self._lowest + 0.1
        self._lowest = min(self._lowest, now)
        stuck = step >= 2 * WINDOW and now > STUCK * self._first and now > LOW_LOSS and not rising
        return [
            *self._report_start(
                rising,
                step,
                "loss-rising",
                f"the loss rose to {now:.3f} from {self._lowest:.3f}: the learning rate {self._rate:.0e} is too "
                f"high. Try {self._rate / 3:.0e}, or a longer warm-up.",
            ),
            *self._report_start(
                stuck,
                step,
                "loss-stuck",
                f"the loss has hardly changed from {self._first:.3f} in {step} steps. Try the learning rate "
                f"{3 * self._rate:.0e}, more targets or a higher rank; check the labels with --check.",
            ),
            *self._report_start(
                now < LOW_LOSS,
                step,
                "low-loss",
                f"the training loss is below {LOW_LOSS}. This is not a fault by itself, because tool calls are "
                "learned that well; compare it with the held-out loss.",
                alarm=False,
            ),
        ]

    def _report_start(
        self, holds: bool, step: int, rule: str, text: str, *, alarm: bool = True
    ) -> list[Anomaly]:
        """The anomaly when the rule begins to hold, and nothing while it continues to hold."""
        begins = holds and rule not in self._active
        (self._active.add if holds else self._active.discard)(rule)
        return [Anomaly(step, rule, text, alarm)] if begins else []


class AnomalyReport(TrainerCallback):
    """Prints what the detector finds, and collects it for ``training.json``."""

    def __init__(self, console: Console, detector: AnomalyDetector) -> None:
        self._console = console
        self._detector = detector
        self._first: dict[str, Anomaly] = {}
        self._counts: Counter[str] = Counter()

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any, **_: Any) -> None:
        if step := TrainingStep.from_logs(state, logs):
            self._report(self._detector.add_step(step))

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Any, **_: Any) -> None:
        self._report(self._detector.add_evaluation(metrics["evaluation"]))

    def as_rows(self) -> list[dict[str, Any]]:
        """For ``training.json``: the first anomaly of every rule, and how often the rule applied."""
        return [asdict(a) | {"times": self._counts[a.rule]} for a in self._first.values()]

    def _report(self, found: list[Anomaly]) -> None:
        for anomaly in found:
            self._counts[anomaly.rule] += 1
            self._first.setdefault(anomaly.rule, anomaly)
            if self._counts[anomaly.rule] <= _PRINTED_AT_MOST:
                word, style = ("health", "yellow") if anomaly.alarm else ("hint", "dim")
                self._console.print(
                    f"{word}, step {anomaly.step}: {anomaly.text}", style=style, highlight=False
                )
