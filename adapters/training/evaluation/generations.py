"""Answers to held-out turns, kept as text, and compared with those of the previous evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adapters.training.data.chat_template import Renderer, Turn
from adapters.training.evaluation.metrics import Score, right_answers, score

_SHOWN_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer: the conversation before it, what was expected, what was said, and whether that is right."""

    prompt: str
    expected: str
    answer: str
    right: bool

    def as_dict(self) -> dict[str, Any]:
        """A row of a table; long texts are cut."""
        return {k: v[-_SHOWN_CHARACTERS:] if k == "prompt" else v for k, v in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Generations:
    """The answers of one evaluation, and their score."""

    score: Score
    rows: tuple[Generation, ...]

    @classmethod
    def of(cls, renderer: Renderer, turns: Sequence[Turn], answers: Sequence[Sequence[int]]) -> Generations:
        """The answers to ``turns``, as token ids."""
        right = right_answers(renderer, turns, answers)
        rows = tuple(
            Generation(
                conversation_text(turn),
                answer_text(renderer, turn.target),
                answer_text(renderer, answer),
                correct,
            )
            for turn, answer, correct in zip(turns, answers, right, strict=True)
        )
        return cls(score(renderer, turns, answers), rows)


@dataclass(frozen=True, slots=True)
class Changes:
    """How answers differ from those of the evaluation before, which is that of the base at first.

    ``win_rate`` is a judge model's: wins plus half of the ties, over all answers; None without a judge.
    """

    changed: int
    newly_right: int
    newly_wrong: int
    win_rate: float | None = None

    @classmethod
    def between(cls, before: Sequence[Generation], now: Sequence[Generation]) -> Changes:
        """The changes from one evaluation of the same turns to the next."""
        pairs = list(zip(before, now, strict=True))
        return cls(
            sum(old.answer != new.answer for old, new in pairs),
            sum(new.right and not old.right for old, new in pairs),
            sum(old.right and not new.right for old, new in pairs),
        )

    def as_dict(self) -> dict[str, Any]:
        """For ``evaluations.jsonl``."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def summary(self) -> str:
        """In a few words."""
        judged = "" if self.win_rate is None else f", win rate {self.win_rate:.2f}"
        right, wrong = f"{self.newly_right} newly right", f"{self.newly_wrong} newly wrong"
        return f"{self.changed} answers changed ({right}, {wrong}{judged})"


def answer_text(renderer: Renderer, ids: Sequence[int]) -> str:
    """An answer without its end token."""
    text: str = renderer.tokenizer.decode(ids)
    return text.removesuffix(renderer.end_token).strip()


def conversation_text(turn: Turn) -> str:
    """The conversation before a turn, for people and judges."""
    return "\n".join(f"{m['role']}: {m.get('content') or m.get('tool_calls')}" for m in turn.before)
