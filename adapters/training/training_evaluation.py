"""The evaluation of one training: which weights are kept, and the scores for ``training.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console
from rich.table import Table

from adapters.artifact.digests import base_digest
from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Renderer
from adapters.training.data.dataset import read_usable
from adapters.training.data.preferences.pairs import Preferences
from adapters.training.data.prepared import PreparedData
from adapters.training.errors import DataError
from adapters.training.evaluation.evaluator import EvaluationSet, Evaluator
from adapters.training.evaluation.generate import answer_turns
from adapters.training.evaluation.held_out_pairs import HeldOutPairs
from adapters.training.evaluation.pairwise import judge_changes, judge_pairwise
from adapters.training.export.model_card import METRICS, format_metric
from adapters.training.model.base_model import is_sharded
from adapters.training.monitoring.progress import MeasuringProgress

#: A loss of more than this share of right answers on general chats is reported.
_FORGOTTEN = 0.05


@dataclass(frozen=True, slots=True)
class TrainingEvaluation:
    """The sets that a training is evaluated on, and the evaluator that measures them during it."""

    config: TrainingConfig
    console: Console
    held_out: EvaluationSet | None
    general: EvaluationSet | None
    evaluator: Evaluator | None
    pairs: HeldOutPairs | None = None

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

    def results(self, model: Any, kept_step: int) -> dict[str, Any]:
        """``scores``, ``general`` and ``judge`` for ``training.json``.

        Without answers (``measure`` 0) the scores are the losses of the evaluation after ``kept_step``.
        """
        results: dict[str, Any] = {"scores": None, "general": None, "judge": None}
        if self.pairs:
            results["pairs"] = self._score_pairs(self.pairs, model)
        if self.held_out and self.held_out.answered:
            results["scores"] = self._compare(self.held_out, "held-out", model)
        elif self.evaluator:
            results["scores"] = self.evaluator.losses_of(kept_step)
        if self.general:
            results["general"] = self._measure_forgetting(self.general, model)
        if self.held_out and self.held_out.answered and self.config.judge:
            results["judge"] = judge_pairwise(model, self.held_out, self.config)
        return results

    def _compare(self, turns: EvaluationSet, name: str, model: Any) -> dict[str, dict[str, Any]]:
        answered = min(turns.answered, len(turns.turns))
        with MeasuringProgress(self.console, f"measuring {name} turns", 2 * answered) as progress:
            base, adapter = turns.compare_with_base(model, progress)
        scores = {"base": base.as_dict(), "adapter": adapter.as_dict()}
        self.console.print(_table(f"{answered or len(turns.turns)} {name} turns", scores))
        return scores

    def _score_pairs(self, pairs: HeldOutPairs, model: Any) -> dict[str, dict[str, float]]:
        with model.disable_adapter():
            base = pairs.score(model).as_dict()
        scores = {"base": base, "adapter": pairs.score(model).as_dict()}
        self.console.print(_table("held-out pairs of answers", scores))
        return scores

    def _measure_forgetting(self, general: EvaluationSet, model: Any) -> dict[str, Any]:
        scores = self._compare(general, "general", model)
        base, adapter = scores["base"].get("exact"), scores["adapter"].get("exact")
        if base is None or adapter is None:
            return {**scores, "forgotten": None}
        forgotten = round(base - adapter, 4)
        if forgotten > _FORGOTTEN:
            self.console.print(
                f"[yellow]the base answers {base:.0%} of the general chats right, the adapter {adapter:.0%}: it "
                "forgot. Mix general chats in with --replay, or lower the rank or the number of epochs."
            )
        return {**scores, "forgotten": forgotten}


def create_evaluation(
    config: TrainingConfig, renderer: Renderer, data: PreparedData, console: Console
) -> TrainingEvaluation:
    """Create the evaluation that ``config`` asks for.

    Raises:
        DataError: the general chats cannot be used.
    """
    held_out = data.held_out
    general_chats = read_usable(config.general, config, []) if config.general else ()
    held_out_set, general = (
        None if is_sharded() else EvaluationSet.of(renderer, chats, config.measure, config.max_new_tokens)
        for chats in (held_out, general_chats)
    )
    if is_sharded() and held_out:
        console.print("[yellow]the model is sharded: nothing is evaluated, and the last weights are written")
    compared = data.preferences.held_out if data.preferences else ()
    pairs = HeldOutPairs(compared, config.beta, renderer.pad_id) if compared else None
    evaluator = _create_evaluator(config, held_out_set, general, pairs) if held_out_set is not None else None
    return TrainingEvaluation(config, console, held_out_set, general, evaluator, pairs)


def start_preferences(
    model: Any,
    config: TrainingConfig,
    renderer: Renderer,
    preferences: Preferences,
    evaluation: TrainingEvaluation,
    console: Console,
) -> None:
    """What the starting model is asked before the first step: worse answers that are missing, and its probabilities.

    Its answers are kept beside the checkpoints, so that a resumed training has the same pairs.

    Raises:
        DataError: the starting model answers every prompt as wanted, so there is no pair.
    """
    turns = preferences.open
    if turns:
        name = f"first-answers-{config.fingerprint(base_digest(config.base))[:16]}.json"
        kept = config.out / "checkpoints" / name
        with MeasuringProgress(console, "answering prompts without a worse answer", len(turns)) as progress:
            answers = _kept_answers(
                kept, lambda: answer_turns(model, renderer, turns, config.max_new_tokens, progress)
            )
        preferences.add_answers(answers)
        console.print(
            f"{preferences.generated} worse answers are the starting model's; it gives "
            f"{preferences.already_preferred} of the better ones itself"
        )
    if not preferences.pairs:
        raise DataError(
            "No pair is left: the model that the training starts from gives the better answers itself."
        )
    if evaluation.pairs:
        evaluation.pairs.set_reference(model)


def _kept_answers(path: Path, answer: Callable[[], list[tuple[int, ...]]]) -> list[tuple[int, ...]]:
    """The answers in the file ``path``, which is written if it is missing."""
    if path.is_file():
        return [tuple(ids) for ids in json.loads(path.read_text(encoding="utf-8"))]
    answers = answer()
    if PartialState().is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(answers), encoding="utf-8")
        partial.replace(path)
    return answers


def _create_evaluator(
    config: TrainingConfig, held_out: EvaluationSet, general: EvaluationSet | None, pairs: HeldOutPairs | None
) -> Evaluator:
    return Evaluator(
        held_out,
        general,
        folder=config.out,
        answered_turns=config.evaluate_turns if config.measure else 0,
        best_by=config.best_by,
        patience=config.patience,
        pairs=pairs,
        win_rate=judge_changes(config),
    )


def _table(title: str, scores: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("", "base", "adapter"):
        table.add_column(column, justify="right" if column else "left")
    for key, label in METRICS.items():
        if scores["adapter"].get(key) is not None:
            table.add_row(label, *(format_metric(key, scores[side].get(key)) for side in ("base", "adapter")))
    return table
