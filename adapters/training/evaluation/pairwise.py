"""Pairwise evaluation: a judge compares the adapter's answers with those of its previous version or of the base."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openai

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Turn
from adapters.training.errors import IntegrationError
from adapters.training.evaluation.evaluator import EvaluationSet
from adapters.training.evaluation.generations import Generation, answer_text, conversation_text
from adapters.training.evaluation.llm_judge import AnswerPair, Judge, compare

_PREVIOUS = "previous"

logger = logging.getLogger("loragate.training")


def check_judge(config: TrainingConfig) -> None:
    """Check before the training what pairwise evaluation needs after it.

    Raises:
        IntegrationError: the judge does not answer, or the previous version is not an adapter folder.
    """
    if not config.judge:
        return
    folder = config.judge_against
    if folder is not None and not (folder / "adapter_model.safetensors").is_file():
        raise IntegrationError(
            f"--judge-against {folder.name} has no adapter_model.safetensors. Give an adapter's folder, or leave "
            "the flag out to compare with the base."
        )
    with Judge(config.judge, config.judge_model, config.judge_key) as judge:
        judge.check()


def judge_pairwise(model: Any, held_out: EvaluationSet, config: TrainingConfig) -> dict[str, Any]:
    """The judge's verdict on the first ``evaluate_turns`` turns, for ``training.json``.

    A judge that fails at this point must not cost the training, so its error is returned in place of the verdict.
    """
    turns = held_out.turns[: min(config.evaluate_turns, held_out.answered)]
    new = _answers(model, held_out, turns)
    if config.judge_against is None:
        against = "base"
        with model.disable_adapter():
            old = _answers(model, held_out, turns)
    else:
        against = config.judge_against.name
        old = _answers_of_previous(model, held_out, turns, config.judge_against)
    pairs = [
        AnswerPair(conversation_text(turn), answer_text(held_out.renderer, turn.target), one, other)
        for turn, one, other in zip(turns, new, old, strict=True)
    ]
    with Judge(config.judge, config.judge_model, config.judge_key) as judge:
        try:
            verdict = compare(judge.prefer, pairs, against).as_dict()
        except openai.OpenAIError as error:
            verdict = {"against": against, "error": str(error)}
    return {"model": config.judge_model, **verdict}


def judge_changes(
    config: TrainingConfig,
) -> Callable[[Sequence[Generation], Sequence[Generation]], float | None]:
    """The judge's win rate of new answers against old ones, None without a judge or if it fails."""

    def win_rate(old: Sequence[Generation], new: Sequence[Generation]) -> float | None:
        pairs = [AnswerPair(n.prompt, n.expected, n.answer, o.answer) for o, n in zip(old, new, strict=True)]
        with Judge(config.judge, config.judge_model, config.judge_key) as judge:
            try:
                return compare(judge.prefer, pairs, "the evaluation before").win_rate
            except openai.OpenAIError as error:
                logger.warning("The judge did not compare an evaluation with the one before: %s", error)
                return None

    return win_rate if config.judge else lambda old, new: None


def _answers_of_previous(
    model: Any, held_out: EvaluationSet, turns: Sequence[Turn], folder: Path
) -> list[str]:
    current = model.active_adapter
    model.load_adapter(str(folder), adapter_name=_PREVIOUS)
    try:
        model.set_adapter(_PREVIOUS)
        return _answers(model, held_out, turns)
    finally:
        model.set_adapter(current)
        model.delete_adapter(_PREVIOUS)


def _answers(model: Any, held_out: EvaluationSet, turns: Sequence[Turn]) -> list[str]:
    return [answer_text(held_out.renderer, answer) for answer in held_out.answers(model, turns)]
