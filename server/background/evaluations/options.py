"""What an evaluation is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What, beside version and chats, decides the figures.

    Turns, the longest answer in tokens, and the name of a judge.
    """

    turns: int = 200
    max_tokens: int = 256
    judge: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the database; without a judge as before there were any, so that an evaluation keeps its id."""
        plain = {"turns": self.turns, "max_tokens": self.max_tokens}
        return plain if self.judge is None else {**plain, "judge": self.judge}
