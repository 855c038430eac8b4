"""Metrics on held-out chats: greedy answers compared with the expected ones. The server uses it: no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from adapters.training.data.chat_template import Conversation, Renderer, Turn
from adapters.training.data.tool_calls import expected_calls, parse_calls

if TYPE_CHECKING:
    from adapters.training.evaluation.generations import Changes, Generation

# An answer loops when it ends in at least this many copies of one pattern, over at least this many tokens.
_COPIES, _LOOP_TOKENS, _LONGEST_PATTERN = 3, 16, 64


@dataclass(frozen=True, slots=True)
class Score:
    """Shares between 0 and 1 over ``turns`` held-out answers.

    ``exact``: the answer has the expected calls if calls are expected, else the expected tokens, and ends with
    the end token. ``tool_calls``: the same over the ``call_turns`` alone; None if there are none.
    ``json_valid``: of the ``json_turns``, which expect JSON or calls, the answers that parse; None if there are
    none. ``stops``: ended with the end token before the token limit. ``repeats``: ends in a repeated pattern.
    """

    turns: int
    exact: float
    call_turns: int
    tool_calls: float | None
    json_turns: int
    json_valid: float | None
    stops: float
    repeats: float


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """What one answer adds to a ``Score``. ``is_json``: None where neither JSON nor calls are expected."""

    is_right: bool
    stops: bool
    repeats: bool
    expects_calls: bool
    is_json: bool | None


@dataclass(frozen=True, slots=True)
class PairScore:
    """Figures over held-out pairs of answers.

    ``preference_loss``: DPO's. ``preferred``: share of the pairs whose better answer the model finds more probable
    per token. ``won``: share whose better answer gained more than the worse one since the training began.
    ``margin``: the mean gain, beta times the difference in nats.
    """

    preference_loss: float
    preferred: float
    won: float
    margin: float

    def as_dict(self) -> dict[str, float]:
        """For logs and ``training.json``."""
        return {name: round(value, 6) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The evaluation after ``step``. Losses are nats per trained token, None if there was nothing to evaluate.

    ``base_loss`` and ``base_score`` are those of the base alone on the same turns; ``changes`` compares the
    ``generations``, the answers themselves, with those of the evaluation before. ``pairs`` is None without pairs.
    """

    step: int
    loss: float
    score: Score | None = None
    general_loss: float | None = None
    base_loss: float | None = None
    base_score: Score | None = None
    changes: Changes | None = None
    generations: Sequence[Generation] = ()
    pairs: PairScore | None = None

    @property
    def decisive_loss(self) -> float:
        """The loss that decides which weights are best: of the pairs if there are any, else of the chats."""
        return self.pairs.preference_loss if self.pairs else self.loss

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return perplexity(self.loss)

    def as_dict(self) -> dict[str, Any]:
        """A line of ``evaluations.jsonl``."""
        return {
            "step": self.step,
            "held_out_loss": round(self.loss, 6),
            "perplexity": round(self.perplexity, 4),
            "general_loss": None if self.general_loss is None else round(self.general_loss, 6),
            **(asdict(self.score) if self.score else {}),
            **(self.pairs.as_dict() if self.pairs else {}),
            "base": {
                "held_out_loss": None if self.base_loss is None else round(self.base_loss, 6),
                **(asdict(self.base_score) if self.base_score else {}),
            },
        } | ({"against_previous": self.changes.as_dict()} if self.changes else {})

    def figures(self) -> dict[str, float]:
        """The numbers for trackers, without the base's."""
        return {
            name: float(value)
            for name, value in self.as_dict().items()
            if name != "step" and isinstance(value, int | float)
        }

    def summary(self) -> str:
        """In one line, the base's values in brackets."""
        beside = "" if self.base_loss is None else f" (base {self.base_loss:.4f})"
        won = [f"{name} {value:.3f}" for name, value in (self.pairs.as_dict() if self.pairs else {}).items()]
        parts = [*won, f"held-out loss {self.loss:.4f}{beside}", f"perplexity {self.perplexity:.3f}"]
        if self.general_loss is not None:
            parts.append(f"general loss {self.general_loss:.4f}")
        base = asdict(self.base_score) if self.base_score else {}
        for name, value in (asdict(self.score) if self.score else {}).items():
            if isinstance(value, float):
                parts.append(f"{name} {value:.2f}" + (f" ({base[name]:.2f})" if base else ""))
        if self.changes:
            parts.append(self.changes.summary())
        return "  ".join(parts)


def perplexity(loss: float) -> float:
    """exp(loss), finite."""
    return math.exp(min(loss, 700.0))


def held_out_turns(renderer: Renderer, conversations: Sequence[Conversation], limit: int) -> list[Turn]:
    """The first ``limit`` assistant turns of ``conversations``."""
    found: list[Turn] = []
    for conversation in conversations:
        found += renderer.turns(conversation)
        if len(found) >= limit:
            break
    return found[:limit]


def score(renderer: Renderer, turns: Sequence[Turn], answers: Sequence[Sequence[int]]) -> Score:
    """Compare ``answers`` with the targets of ``turns``."""
    return score_of([facts_of(renderer, turn, a) for turn, a in zip(turns, answers, strict=True)])


def score_of(facts: Sequence[AnswerFacts]) -> Score:
    """The shares of some answers, at least one."""
    calls = [f.is_right for f in facts if f.expects_calls]
    valid = [f.is_json for f in facts if f.is_json is not None]
    return Score(
        turns=len(facts),
        exact=_share([f.is_right for f in facts]),
        call_turns=len(calls),
        tool_calls=_share(calls) if calls else None,
        json_turns=len(valid),
        json_valid=_share(valid) if valid else None,
        stops=_share([f.stops for f in facts]),
        repeats=_share([f.repeats for f in facts]),
    )


def facts_of(renderer: Renderer, turn: Turn, answer: Sequence[int]) -> AnswerFacts:
    """Compare one answer with the target of its turn."""
    stops = _stops(renderer, answer)
    return AnswerFacts(
        is_right=stops and _is_right(renderer, turn, answer),
        stops=stops,
        repeats=repeats(answer),
        expects_calls=bool(turn.answer.get("tool_calls")),
        is_json=_is_json(renderer, turn, answer) if _expects_json(turn) else None,
    )


def right_answers(renderer: Renderer, turns: Sequence[Turn], answers: Sequence[Sequence[int]]) -> list[bool]:
    """Whether each answer is the expected one, and ends."""
    return [_stops(renderer, a) and _is_right(renderer, t, a) for t, a in zip(turns, answers, strict=True)]


def _stops(renderer: Renderer, answer: Sequence[int]) -> bool:
    return bool(answer) and answer[-1] == renderer.end_id


def repeats(answer: Sequence[int]) -> bool:
    """Whether ``answer`` ends in a repeated pattern; its end token does not count."""
    for end in (len(answer), len(answer) - 1):
        for size in range(1, min(_LONGEST_PATTERN, end // _COPIES) + 1):
            copies = max(_COPIES, math.ceil(_LOOP_TOKENS / size))
            tail = answer[max(0, end - copies * size) : end]
            if len(tail) == copies * size and tail[size:] == tail[:-size]:
                return True
    return False


def _is_right(renderer: Renderer, turn: Turn, answer: Sequence[int]) -> bool:
    if tuple(answer) == turn.target:
        return True
    expected = expected_calls(turn.answer)
    return bool(expected) and parse_calls(renderer.tokenizer.decode(answer)) == expected


def _expects_json(turn: Turn) -> bool:
    return bool(turn.answer.get("tool_calls")) or _parses(str(turn.answer.get("content") or ""))


def _is_json(renderer: Renderer, turn: Turn, answer: Sequence[int]) -> bool:
    text = renderer.tokenizer.decode(answer)
    if turn.answer.get("tool_calls"):
        return bool(parse_calls(text))
    return _parses(text.removesuffix(renderer.end_token))


def _parses(text: str) -> bool:
    """Whether ``text`` is a JSON object or array; nobody asks for a bare number or word as JSON."""
    try:
        return isinstance(json.loads(text), dict | list)
    except json.JSONDecodeError:
        return False


def _share(hits: Sequence[bool]) -> float:
    return round(sum(hits) / len(hits), 4)
