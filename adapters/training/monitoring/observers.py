"""Everything that observes a training: its callbacks, its evaluations, and the results for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import PartialState
from rich.console import Console
from rich.table import Table
from transformers import TrainerCallback

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Conversation, Renderer
from adapters.training.data.reader import read_conversations
from adapters.training.evaluation.evaluator import EvaluationSet, Evaluator
from adapters.training.evaluation.pairwise import judge_pairwise
from adapters.training.export.model_card import METRICS, format_metric
from adapters.training.model.base_model import is_sharded
from adapters.training.monitoring.anomalies import AnomalyDetector, AnomalyReport
from adapters.training.monitoring.plots import PlotWriter
from adapters.training.monitoring.progress import JsonLog, ProgressBar
from adapters.training.monitoring.trackers import trackers

#: A loss of more than this share of right answers on general chats is reported.
_FORGOTTEN = 0.05


@dataclass(frozen=True, slots=True)
class TrainingObservers:
    """The callbacks and the evaluator of one training, and the sets that it is evaluated on."""

    config: TrainingConfig
    console: Console
    callbacks: Sequence[TrainerCallback]
    anomalies: AnomalyReport
    held_out: EvaluationSet | None
    general: EvaluationSet | None
    evaluator: Evaluator | None

    def select_weights(self, model: Any, last_step: int) -> int:
        """Load the weights that are to be written into ``model``; returns the step they are of.

        Raises:
            CheckpointError: the best weights are missing.
        """
        best = self.evaluator.best_step() if self.evaluator else None
        if self.evaluator is None or best is None or best == last_step or self.config.keep == "last":
            return last_step
        self.evaluator.restore_best(model)
        self.console.print(f"the evaluation after step {best} was the best: its weights are written")
        return best

    def results(self, model: Any) -> dict[str, Any]:
        """``scores``, ``general``, ``judge`` and ``health`` for ``training.json``."""
        results: dict[str, Any] = {"scores": None, "general": None, "judge": None}
        if self.held_out:
            results["scores"] = self._compare(self.held_out, "held-out", model)
        if self.general:
            results["general"] = self._measure_forgetting(self.general, model)
        if self.held_out and self.config.judge:
            results["judge"] = judge_pairwise(model, self.held_out, self.config)
        return results | {"health": self.anomalies.as_rows()}

    def _compare(self, turns: EvaluationSet, name: str, model: Any) -> dict[str, dict[str, Any]]:
        base, adapter = turns.compare_with_base(model)
        scores = {"base": base.as_dict(), "adapter": adapter.as_dict()}
        self.console.print(_table(f"{len(turns.turns)} {name} turns", scores))
        return scores

    def _measure_forgetting(self, general: EvaluationSet, model: Any) -> dict[str, Any]:
        scores = self._compare(general, "general", model)
        base, adapter = scores["base"]["exact"], scores["adapter"]["exact"]
        forgotten = round(base - adapter, 4)
        if forgotten > _FORGOTTEN:
            self.console.print(
                f"[yellow]the base answers {base:.0%} of the general chats right, the adapter {adapter:.0%}: it "
                "forgot. Mix general chats in with --replay, or lower the rank or the number of epochs."
            )
        return {**scores, "forgotten": forgotten}


def create_observers(
    config: TrainingConfig,
    renderer: Renderer,
    held_out: Sequence[Conversation],
    console: Console,
) -> TrainingObservers:
    """Create the callbacks and the evaluator that ``config`` asks for.

    Raises:
        IntegrationError: a tracker that ``config`` names is not installed.
        DataError: the general chats cannot be used.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    anomalies = AnomalyReport(
        console, AnomalyDetector(learning_rate=config.learning_rate, max_grad_norm=config.max_grad_norm)
    )
    callbacks = [JsonLog(config.out), ProgressBar(console), anomalies, *trackers(config), PlotWriter(config)]
    general_chats = read_conversations(config.general) if config.general else ()
    limit = 0 if is_sharded() else config.measure
    held_out_set, general = (
        EvaluationSet.of(renderer, chats, limit, config.max_new_tokens) for chats in (held_out, general_chats)
    )
    if is_sharded() and config.measure:
        console.print("[yellow]the model is sharded: nothing is evaluated, and the last weights are written")
    return TrainingObservers(
        config,
        console,
        callbacks if PartialState().is_main_process else (),
        anomalies,
        held_out_set,
        general,
        _create_evaluator(config, held_out_set, general) if held_out_set is not None else None,
    )


def _create_evaluator(
    config: TrainingConfig, held_out: EvaluationSet, general: EvaluationSet | None
) -> Evaluator:
    return Evaluator(
        held_out,
        general,
        folder=config.out,
        answered_turns=config.evaluate_turns,
        best_by=config.best_by,
        patience=config.patience,
    )


def _table(title: str, scores: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("", "base", "adapter"):
        table.add_column(column, justify="right" if column else "left")
    for key, label in METRICS.items():
        if scores["adapter"].get(key) is not None:
            table.add_row(label, *(format_metric(key, scores[side].get(key)) for side in ("base", "adapter")))
    return table
