"""Detects that a training goes wrong, and says in plain words what to change.

Thresholds on the gradient norm are relative to its own running median where a median exists: normal values depend on
model, data and rank. A low training loss alone is a hint and never an alarm: tool calls are legitimately learned to
almost zero. In a short training the windows are shorter, so that it gets advice, too.
"""

from __future__ import annotations

import itertools
from collections import deque
from statistics import median

from adapters.training.config import TrainingConfig
from adapters.training.evaluation.metrics import Evaluation
from adapters.training.loop.callback import TrainingStep
from adapters.training.monitoring import advice
from adapters.training.monitoring.advice import Anomaly

WINDOW, LEAST_WINDOW = 20, 4  # losses in a median; in a short training a fifth of its steps
NORM_WINDOW = 50  # gradient norms in the running median
LEAST_NORMS = 10  # before that there is no normal value
SPIKE = 10.0  # times the normal gradient norm
EXPLODED = 30.0  # times the lowest norm so far, before there is a normal value
HUGE = 100.0  # times the norm to which gradients are clipped
VANISHED = 1e-3  # of the highest median norm so far
RISEN = 1.3  # times the lowest median loss
STUCK = 0.97  # of the first median loss
SWING = 0.2  # mean change from step to step, as a share of the loss
LOW_LOSS = 0.3
GAP = 1.5  # held-out loss over training loss
WORSE = 1.05  # held-out loss over the best one
FEW_STEPS = 20
CHOSEN_FALLEN = -10.0  # nats that the better answers of pairs have lost


class AnomalyDetector:
    """The rules, fed step by step. It has no side effects and returns what it finds.

    Args:
        config: what the training was started with; advice names its values.
        steps: the number of optimizer steps of the whole training.
    """

    def __init__(self, config: TrainingConfig, steps: int) -> None:
        self._config = config
        self._steps = steps
        self._window = max(LEAST_WINDOW, min(WINDOW, steps // 5))
        self._norms: deque[float] = deque(maxlen=NORM_WINDOW)
        self._losses: deque[float] = deque(maxlen=self._window)
        self._rewards: deque[float] = deque(maxlen=self._window)  # of the better answers of pairs
        self._first: float | None = None  # median of the first window
        self._lowest = float("inf")  # lowest median of a window so far
        self._highest_norm = 0.0  # highest median of a window of norms so far
        self._best_evaluation: Evaluation | None = None
        self._active: set[str] = set()  # rules that hold now; each is reported when it begins to hold

    def add_step(self, step: TrainingStep) -> list[Anomaly]:
        """The anomalies of a step."""
        found = self._check_gradient(step)
        if step.is_finite:
            self._norms.append(step.grad_norm)
            self._losses.append(step.loss)
            found += self._check_norms(step.step)
            found += self._check_loss(step.step)
            found += self._check_chosen(step)
        return found

    def add_evaluation(self, evaluation: Evaluation) -> list[Anomaly]:
        """The anomalies of an evaluation."""
        best, now = self._best_evaluation, evaluation.decisive_loss
        if best is None or now < best.decisive_loss:
            self._best_evaluation = evaluation
        if best is None or not self._losses:
            return []
        train = median(self._losses)
        overfit = now > WORSE * best.decisive_loss and now > GAP * train
        text = advice.overfitting_advice(now, best.decisive_loss, best.step, train)
        return self._report_start(overfit, Anomaly(evaluation.step, "overfitting", text))

    def end(self, step: int) -> list[Anomaly]:
        """What can be said only when the training has ended after ``step``."""
        if 0 < self._steps < FEW_STEPS:
            return [
                Anomaly(
                    step, "few-steps", advice.few_steps_advice(self._steps, FEW_STEPS, self._config), False
                )
            ]
        return []

    def _check_gradient(self, step: TrainingStep) -> list[Anomaly]:
        norm = step.grad_norm
        if norm == 0.0:
            return [Anomaly(step.step, "no-gradient", advice.no_gradient_advice())]
        if len(self._norms) < LEAST_NORMS:
            lowest = min(self._norms, default=norm)
            exploded = norm > EXPLODED * lowest and norm > 10 * self._config.max_grad_norm
            text = advice.exploding_advice(lowest, norm, self._config)
            return self._report_start(exploded, Anomaly(step.step, "gradient-exploding", text))
        normal = median(self._norms)
        if normal and norm > SPIKE * normal:
            text = advice.spike_advice(norm, normal, self._config)
            return [Anomaly(step.step, "gradient-spike", text)]
        return []

    def _check_norms(self, step: int) -> list[Anomaly]:
        """A norm that stays at hundreds, or has vanished."""
        if len(self._norms) < self._window:
            return []
        now = median(list(self._norms)[-self._window :])
        self._highest_norm = max(self._highest_norm, now)
        huge = now > HUGE * self._config.max_grad_norm
        vanished = now < VANISHED * self._highest_norm and median(self._losses) > LOW_LOSS
        return [
            *self._report_start(huge, Anomaly(step, "gradient-huge", advice.huge_advice(now, self._config))),
            *self._report_start(
                vanished,
                Anomaly(
                    step, "gradient-vanished", advice.vanished_advice(now, self._highest_norm, self._config)
                ),
            ),
        ]

    def _check_loss(self, step: int) -> list[Anomaly]:
        if len(self._losses) < self._window:
            return []
        now = median(self._losses)
        if self._first is None:
            self._first = now
        rising = now > RISEN * self._lowest and now > self._lowest + 0.1
        self._lowest = min(self._lowest, now)
        still = step >= 2 * self._window and now > STUCK * self._first and now > LOW_LOSS and not rising
        swings = self._swing() > SWING
        low = Anomaly(step, "low-loss", advice.low_loss_advice(LOW_LOSS, self._config), alarm=False)
        return [
            *self._report_start(
                rising, Anomaly(step, "loss-rising", advice.rising_advice(now, self._lowest, self._config))
            ),
            *self._report_start(
                still and swings,
                Anomaly(
                    step,
                    "loss-oscillating",
                    advice.oscillating_advice(min(self._losses), max(self._losses), self._config),
                ),
            ),
            *self._report_start(
                still and not swings,
                Anomaly(step, "loss-stuck", advice.stuck_advice(self._first, step, self._config)),
            ),
            *self._report_start(now < LOW_LOSS, low),
        ]

    def _check_chosen(self, step: TrainingStep) -> list[Anomaly]:
        """Better answers that lose probability: the model only learns to avoid the worse ones."""
        if step.chosen_reward is None:
            return []
        self._rewards.append(step.chosen_reward)
        gain = median(self._rewards) / self._config.beta
        falls = len(self._rewards) == self._window and gain < CHOSEN_FALLEN
        text = advice.chosen_falling_advice(gain, self._config)
        return self._report_start(falls, Anomaly(step.step, "chosen-falling", text))

    def _swing(self) -> float:
        """The mean change of the loss from step to step, as a share of it."""
        losses = list(self._losses)
        changes = [abs(b - a) for a, b in itertools.pairwise(losses)]
        return sum(changes) / len(changes) / max(median(losses), 1e-9)

    def _report_start(self, holds: bool, anomaly: Anomaly) -> list[Anomaly]:
        """The anomaly when its rule begins to hold, and nothing while it continues to hold."""
        begins = holds and anomaly.rule not in self._active
        (self._active.add if holds else self._active.discard)(anomaly.rule)
        return [anomaly] if begins else []
