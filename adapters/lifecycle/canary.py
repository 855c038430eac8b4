"""When a canary is worse than what it is to replace: counts of outcomes, and the verdict. No I/O, no clock.

A canary is any version of a split alias but the one with the most weight. It is called bad when it has
answered often enough, the share of one kind of bad answers is above the operator's limit, and it is above the
stable version's share too: when everything fails, the canary is not to blame.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from adapters.models import Alias, Version

_BUCKETS = 10  # old answers are forgotten in steps of a tenth of the window


class Outcome(StrEnum):
    """How a request ended, as far as its version may be to blame."""

    GOOD = "good"
    ERROR = "error"
    EMPTY = "empty"
    REPEATING = "repeating"
    DISLIKED = "disliked"


@dataclass(frozen=True, slots=True)
class CanaryLimits:
    """The operator's limits; a share of 1 never triggers."""

    shares: Mapping[Outcome, float]
    min_answers: int = 50
    window_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Breach:
    """Why a canary should be rolled back."""

    number: int
    outcome: Outcome
    share: float
    limit: float
    answers: int

    def __str__(self) -> str:
        return (
            f"version {self.number}: {self.share:.1%} of {self.answers} answers were {self.outcome}, "
            f"above the limit of {self.limit:.1%}"
        )


class CanaryWatch:
    """Outcomes per version within a sliding window; `now_s` is any clock that does not go back."""

    def __init__(self, limits: CanaryLimits) -> None:
        self._limits = limits
        self._counts: dict[tuple[str, int], deque[tuple[int, Counter[Outcome]]]] = {}

    def note(self, version: Version, outcome: Outcome, now_s: float) -> None:
        """Count one answered request."""
        buckets = self._counts.setdefault((version.public_name, version.number), deque(maxlen=_BUCKETS + 1))
        index = self._index(now_s)
        if not buckets or buckets[-1][0] != index:
            buckets.append((index, Counter()))
        buckets[-1][1][outcome] += 1

    def judge(self, alias: Alias, public_name: str, now_s: float) -> Breach | None:
        """The first canary of the alias that is worse than it may be."""
        if len(alias.targets) < 2:
            return None
        stable = max(alias.targets, key=lambda target: (target.weight, -target.number)).number
        baseline = self._window(public_name, stable, now_s)
        for target in alias.targets:
            if target.number != stable:
                found = self._window(public_name, target.number, now_s)
                if breach := self._compare(target.number, found, baseline):
                    return breach
        return None

    def forget(self, public_name: str) -> None:
        """Drop the counts of an adapter whose alias was changed."""
        for key in [key for key in self._counts if key[0] == public_name]:
            del self._counts[key]

    def _compare(self, number: int, found: Counter[Outcome], baseline: Counter[Outcome]) -> Breach | None:
        answers = found.total()
        if answers < self._limits.min_answers:
            return None
        for outcome, limit in self._limits.shares.items():
            share = found[outcome] / answers
            usual = (
                baseline[outcome] / baseline.total() if baseline.total() >= self._limits.min_answers else 0.0
            )
            if share > max(limit, usual):
                return Breach(number, outcome, share, limit, answers)
        return None

    def _window(self, public_name: str, number: int, now_s: float) -> Counter[Outcome]:
        oldest = self._index(now_s) - _BUCKETS
        total: Counter[Outcome] = Counter()
        for index, counts in self._counts.get((public_name, number), ()):
            if index > oldest:
                total.update(counts)
        return total

    def _index(self, now_s: float) -> int:
        return int(now_s // (self._limits.window_s / _BUCKETS))
