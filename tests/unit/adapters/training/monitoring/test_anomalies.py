"""Rules on losses and gradients: when they report, and when they must not."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from adapters.training.config import TrainingConfig
from adapters.training.evaluation.metrics import Evaluation
from adapters.training.loop.callback import TrainingStep
from adapters.training.monitoring.advice import Anomaly
from adapters.training.monitoring.anomalies import FEW_STEPS, WINDOW, AnomalyDetector
from adapters.training.monitoring.anomaly_report import AnomalyReport

CONFIG = TrainingConfig(
    base=Path("b"), data=(Path("d"),), out=Path("o"), learning_rate=3e-4, rank=32, alpha=32, max_lora_rank=32
)


def step(number: int, loss: float, norm: float = 1.0) -> TrainingStep:
    return TrainingStep(number, 0.0, loss, norm, 1e-4, 10, 1.0)


def found_in(
    losses: Callable[[int], float], norms: Callable[[int], float], steps: int = 100
) -> list[Anomaly]:
    detector = AnomalyDetector(CONFIG, steps)
    found = [
        anomaly for n in range(1, steps + 1) for anomaly in detector.add_step(step(n, losses(n), norms(n)))
    ]
    return [*found, *detector.end(steps)]


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
        (lambda n: 2.0 + 0.8 * (n % 2), wobbling, ["loss-oscillating"]),
        (lambda n: 2.0 + 0.04 * (n % 2), wobbling, ["loss-stuck"]),
        (falling, lambda n: 2.0 ** min(n, 8), ["gradient-exploding", "gradient-huge"]),
        (falling, lambda n: 4.0 if n < 5 else wobbling(n), []),
        (falling, lambda n: 300.0 + n, ["gradient-huge"]),
        (falling, lambda n: wobbling(n) if n < 40 else 1e-6, ["gradient-vanished"]),
        (
            lambda n: 0.2,
            lambda n: wobbling(n) if n < 40 else 1e-6,
            ["low-loss"],
        ),  # learned: nothing is left to do
        (lambda n: 0.1, wobbling, ["low-loss"]),  # starts low: a hint, and not stuck
    ],
)
def test_rules_report_when_they_should(losses: Callable, norms: Callable, rules: list[str]) -> None:
    assert [anomaly.rule for anomaly in found_in(losses, norms)] == rules


@pytest.mark.parametrize(
    ("losses", "norms", "steps", "rules"),
    [
        (lambda n: 2.0, wobbling, 30, ["loss-stuck"]),
        (lambda n: 2.0, wobbling, 12, ["loss-stuck", "few-steps"]),
        (lambda n: 2.0 + n % 2, wobbling, 30, ["loss-oscillating"]),
        (lambda n: 2.0 - 0.05 * n, lambda n: 500.0, 30, ["gradient-huge"]),
        (lambda n: 2.0 * 0.9**n + 0.4, wobbling, 30, []),
        (lambda n: 2.0 * 0.9**n + 0.4, wobbling, 6, ["few-steps"]),
    ],
)
def test_short_trainings_get_advice_too(
    losses: Callable, norms: Callable, steps: int, rules: list[str]
) -> None:
    found = found_in(losses, norms, steps)
    assert [anomaly.rule for anomaly in found] == rules
    assert all(anomaly.alarm == (anomaly.rule != "few-steps") for anomaly in found)


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
    detector = AnomalyDetector(CONFIG, 100)
    for n in range(1, WINDOW + 1):
        detector.add_step(step(n, 0.2))
    found = [a for at, loss in enumerate(evaluations) for a in detector.add_evaluation(Evaluation(at, loss))]
    assert [a.rule for a in found] == ["overfitting"] * reports


def test_advice_names_what_to_change() -> None:
    (rising,) = found_in(lambda n: falling(n) if n <= 50 else 3.0, wobbling)
    assert "Try 1e-04" in rising.text
    (spike,) = found_in(falling, lambda n: 25.0 if n == 30 else wobbling(n))
    assert "18 times its usual 1.40" in spike.text and "clipped to 1" in spike.text
    (stuck,) = found_in(lambda n: 2.0, wobbling)
    assert "--rank 64 --alpha 64, and the server's --max-lora-rank 64" in stuck.text and "9e-04" in stuck.text
    (swinging,) = found_in(lambda n: 2.0 + 0.8 * (n % 2), wobbling)
    assert "Try 1e-04, or more samples in a step (--batch-samples 32)" in swinging.text
    few = found_in(lambda n: 2.0 * 0.9**n + 0.4, wobbling, FEW_STEPS - 10)[-1]
    assert "--batch-samples 4" in few.text and "--epochs 12" in few.text
    assert "--max-steps 40" in AnomalyDetector(replace(CONFIG, max_steps=10), 10).end(10)[0].text


def test_a_rule_is_printed_three_times_and_counted_always(send_step: Callable) -> None:
    out = io.StringIO()
    report = AnomalyReport(Console(file=out, width=200), CONFIG)
    for n in range(1, 6):
        send_step(report, step(n, 1.0, 0.0))
    assert out.getvalue().count("health, step") == 3
    (row,) = report.as_rows()
    assert (row["rule"], row["step"], row["times"], row["alarm"]) == ("no-gradient", 1, 5, True)
