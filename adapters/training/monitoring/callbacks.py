"""The callbacks of one training: log, progress, anomalies, trackers and plots."""

from __future__ import annotations

from collections.abc import Sequence

from accelerate import PartialState
from rich.console import Console
from transformers import TrainerCallback

from adapters.training.config import TrainingConfig
from adapters.training.monitoring.anomaly_report import AnomalyReport
from adapters.training.monitoring.plots import PlotWriter
from adapters.training.monitoring.progress import JsonLog, ProgressBar
from adapters.training.monitoring.trackers import trackers


def create_callbacks(
    config: TrainingConfig, console: Console, anomalies: AnomalyReport
) -> Sequence[TrainerCallback]:
    """Create the callbacks that ``config`` asks for; none in any process but the first.

    Raises:
        IntegrationError: a tracker that ``config`` names is not installed.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    callbacks = [JsonLog(config.out), ProgressBar(console), anomalies, *trackers(config), PlotWriter(config)]
    return callbacks if PartialState().is_main_process else ()
