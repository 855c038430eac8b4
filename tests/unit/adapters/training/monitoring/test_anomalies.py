"""Rules on losses and gradients: when they report, and when they must not."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from adapters.training.evaluation.metrics import Evaluation
from adapters.training.loop.callback import TrainingStep
from adapters.training.monitoring.anomalies import WINDOW, Anomaly, AnomalyDetector, AnomalyReport


def step(number: int, loss: float, norm: float = 1.0) -> TrainingStep:
    return TrainingStep(number, 0.0, loss, norm, 1e-4, 10, 1.0)


def found_in(
    losses: Callable[[int], float], norms: Callable[[int], float], steps: int = 100
) -> list[Anomaly]:
    detector = AnomalyDetector(learning_rate=3e-4, max_grad_norm=1.0)
    return [
        anomaly for n in range(1, steps + 1) for anomaly in detector.add_step(step(n, losses(n), norms(n)))
    ]


def falling(n: int) -> float:
    return 2.0 * 0.98**n + 0.4


def wobbling(n: int) -> float:
    return 1.0 + 0.4 * (n % 3)


@pytest.mark.parametrize(
    ("losses", "norms", "rules"),
    [
        (falling, wobbling, []),
        (lambda n: falling(n) * (1.3 if n % 2 else 0.8), wobbling, []),  # noisy, yet healthy
        (falling, lambda n: 0.0 if n == 30 else wobbling(n), ["no-gradient"]),
        (falling, lambda n: 25.0 if n in (30, 60) else wobbling(n), ["gradient-spike", "gradient-spike"]),
        (falling, lambda n: 13.0 if n == 30 else wobbling(n), []),  # below ten times the usual 1.4
        (falling, lambda n: 100.0 if n < 10 else wobbling(n), []),  # nothing is usual yet
        (falling, lambda n: 1e-3 * wobbling(n), []),  # small everywhere is no fault
        (lambda n: falling(n) if n <= 50 else 3.0, wobbling, ["loss-rising"]),
        (lambda n: 2.0, wobbling, ["loss-stuck"]),
        (lambda n: 0.1, wobbling, ["low-loss"]),  # starts low: a hint, and not stuck
    ],
)
def test_rules_report_when_they_should(losses: Callable, norms: Callable, rules: list[str]) -> None:
    assert [anomaly.rule for anomaly in found_in(losses, norms)] == rules


def test_a_low_training_loss_is_a_hint_and_no_alarm() -> None:
    assert [(a.rule, a.alarm) for a in found_in(lambda n: 0.1, wobbling)] == [("low-loss", False)]


@pytest.mark.parametrize(
    ("evaluations", "reports"),
    [
        ([1.0, 0.8, 0.7], 0),  # far above the training loss, but falling
        ([1.0, 0.5, 0.9, 0.95], 1),  # told once, while it goes on
        ([0.25, 0.2, 0.24], 0),  # risen, yet near the training loss
    ],
)
def test_overfitting_needs_a_risen_held_out_loss_and_a_gap(evaluations: list[float], reports: int) -> None:
    detector = AnomalyDetector(learning_rate=3e-4, max_grad_norm=1.0)
    for n in range(1, WINDOW + 1):
        detector.add_step(step(n, 0.2))
    found = [a for at, loss in enumerate(evaluations) for a in detector.add_evaluation(Evaluation(at, loss))]
    assert [a.rule for a in found] == ["overfitting"] * reports


def test_advice_names_what_to_change() -> None:
    (rising,) = found_in(lambda n: falling(n) if n <= 50 else 3.0, wobbling)
    assert "Try 1e-04" in rising.text
    (spike,) = found_in(falling, lambda n: 25.0 if n == 30 else wobbling(n))
    assert "18 times its usual 1.40" in spike.text and "clipped to 1" in spike.text


def test_a_rule_is_printed_three_times_and_counted_always(send_step: Callable) -> None:
    out = io.StringIO()
    report = AnomalyReport(
        Console(file=out, width=200), AnomalyDetector(learning_rate=1e-4, max_grad_norm=1.0)
    )
    for n in range(1, 6):
        send_step(report, step(n, 1.0, 0.0))
    assert out.getvalue().count("health, step") == 3
    (row,) = report.as_rows()
    assert (row["rule"], row["step"], row["times"], row["alarm"]) == ("no-gradient", 1, 5, True)
