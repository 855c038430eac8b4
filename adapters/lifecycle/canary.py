"""Detects a canary that answers worse than the version it is to replace. No I/O and no clock.

A canary is any version of a split alias but the one with the most weight, the stable version. It is bad when it has
answered often enough, and its share of one kind of bad answers is above the operator's limit and above the stable
version's share too: when everything fails, the canary is not the cause.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from adapters.models import Alias, Version
from adapters.sliding_window import SlidingWindow

_BUCKETS = 10  # old answers leave in steps of a tenth of the window


class Outcome(StrEnum):
    """How a request ended, as far as its version may be the cause."""

    GOOD = "good"
    ERROR = "error"
    EMPTY = "empty"
    REPEATING = "repeating"
    DISLIKED = "disliked"


@dataclass(frozen=True, slots=True)
class CanaryLimits:
    """The operator's limits; a limit of 1 never triggers a rollback."""

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
    """Counts outcomes per version in a sliding window; `now_s` is any clock that does not go backwards."""

    def __init__(self, limits: CanaryLimits) -> None:
        self._limits = limits
        self._counts: dict[tuple[str, int], dict[Outcome, SlidingWindow]] = {}

    def note(self, version: Version, outcome: Outcome, now_s: float) -> None:
        """Count one answered request."""
        counts = self._counts.setdefault((version.public_name, version.number), {})
        if outcome not in counts:
            bucket_s = self._limits.window_s / _BUCKETS
            counts[outcome] = SlidingWindow(self._limits.window_s - bucket_s, bucket_s)
        counts[outcome].add(now_s, 1)

    def judge(self, alias: Alias, public_name: str, now_s: float) -> Breach | None:
        """The first canary of the alias that is bad, or None."""
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
        counts = self._counts.get((public_name, number), {})
        return Counter({outcome: window.total(now_s) for outcome, window in counts.items()})
