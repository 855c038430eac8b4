"""What is found of each turn of an evaluation, and the figures that are made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from adapters.promotion.errors import EvaluationRefused
from adapters.training.evaluation.metrics import AnswerFacts, perplexity, score_of

#: Of a turn that a judge has scored, or has not: its points, whether a reply had no verdict, and the reason.
POINTS, UNCLEAR, NOT_JUDGED = "points", "unclear", "not_judged"


def facts_of_turn(
    facts: AnswerFacts, answer: Sequence[int] | None, likelihood: float | None, target_tokens: int
) -> dict[str, Any]:
    """What is stored of one turn; no text."""
    if answer is None or likelihood is None:
        return {"too_long": True}
    counted = {"loss": -likelihood, "target_tokens": target_tokens, "answer_tokens": len(answer)}
    return asdict(facts) | counted


def figures_of(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of an evaluation: those of the trainer's evaluations, and what they are of.

    `calls_right` is the trainer's `tool_calls`: of the answers that should be calls, the share that are the right
    ones. `answer_tokens` is the mean length. With a judge: see `_judged`.
    Raises: EvaluationRefused: no turn fits the model.
    """
    used = [each for each in facts if not each.get("too_long")]
    if not used:
        raise EvaluationRefused(
            f"All {len(facts)} turns are longer than the model's length. Shorten the chats."
        )
    names = [field.name for field in fields(AnswerFacts)]
    found = asdict(score_of([AnswerFacts(**{name: each[name] for name in names}) for each in used]))
    found["calls_right"] = found.pop("tool_calls")
    target_tokens = sum(each["target_tokens"] for each in used)
    loss = sum(each["loss"] for each in used) / target_tokens
    return (
        found
        | _judged(used)
        | {
            "loss": round(loss, 6),
            "perplexity": round(perplexity(loss), 4),
            "target_tokens": target_tokens,
            "answer_tokens": round(sum(each["answer_tokens"] for each in used) / len(used), 2),
            "too_long": len(facts) - len(used),
        }
    )


def _judged(used: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`win_rate`: mean points of the answers against the expected ones, None where a turn was not judged.

    `unclear`: replies without a verdict, each counted as a tie; `not_judged`: why there is no win rate.
    """
    reasons = [each[NOT_JUDGED] for each in used if NOT_JUDGED in each]
    points = [each[POINTS] for each in used if POINTS in each]
    if reasons:
        return {"win_rate": None, "not_judged": reasons[0]}
    if not points:
        return {}
    return {
        "win_rate": round(sum(points) / len(points), 4),
        "unclear": sum(each[UNCLEAR] for each in used if POINTS in each),
    }
