"""Prints the anomalies of a training as they begin, and collects them for ``training.json``."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.console import Console
from transformers import TrainerCallback, TrainerState

from adapters.training.config import TrainingConfig
from adapters.training.loop.callback import TrainingStep
from adapters.training.monitoring.advice import Anomaly
from adapters.training.monitoring.anomalies import AnomalyDetector

_PRINTED_AT_MOST = 3  # of the same rule; the report counts all


class AnomalyReport(TrainerCallback):
    """Feeds the detector, prints what it finds, and collects it."""

    def __init__(self, console: Console, config: TrainingConfig) -> None:
        self._console = console
        self._config = config
        self._detector = AnomalyDetector(config, 0)
        self._first: dict[str, Anomaly] = {}
        self._counts: Counter[str] = Counter()

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Begin with the number of steps that Trainer has computed."""
        self._detector = AnomalyDetector(self._config, state.max_steps)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any, **_: Any) -> None:
        if step := TrainingStep.from_logs(state, logs):
            self._report(self._detector.add_step(step))

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Any, **_: Any) -> None:
        self._report(self._detector.add_evaluation(metrics["evaluation"]))

    def finish(self, step: int) -> None:
        """Report what can be said only after the last ``step``."""
        self._report(self._detector.end(step))

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
