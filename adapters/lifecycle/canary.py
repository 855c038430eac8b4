"""Decides whether a canary answers worse than the version it is to replace. No I/O and no clock.

A canary is any version of a split alias but the one with the most weight, the stable version. It loses its traffic
when its rate of one kind of bad answers is proven to be above the operator's limit and above the stable version's
rate, too: when everything fails, the canary is not the cause. The proof is a sequential test (`sequential_test`), so
a split loses a canary without reason with at most the probability `false_alarms`, however long it lasts. The bound
assumes that answers are independent and that the rates do not change within a span.

Two spans are tested, each with one half of that probability: all answers since the split, which finds small
differences, and windows of ten minutes, which find a canary that was good for days. Window k gets the share
1 / (k (k + 1)), so that all windows together keep to their half.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from adapters.lifecycle.sequential_test import evidence_worse, most_evidence, proves_above, proves_worse
from adapters.models import Alias
from adapters.promotion.checker import current_version

#: Classes of duration for each doubling; an edge is 2 ** (number / this) seconds.
_CLASSES = 4
#: Edges that are compared: every half doubling from 8 ms to 2 minutes.
_EDGES = range(-7 * _CLASSES, 7 * _CLASSES, 2)
_SLOW = "took."


class Outcome(StrEnum):
    """How a request ended, as far as its version may be the cause."""

    GOOD = "good"
    ERROR = "error"
    EMPTY = "empty"
    REPEATING = "repeating"
    DISLIKED = "disliked"
    SLOW = "slow"


_WORDS = {
    Outcome.ERROR: "answers failed",
    Outcome.EMPTY: "answers were empty",
    Outcome.REPEATING: "answers repeated themselves",
    Outcome.DISLIKED: "ratings were down",
}
_ANSWER, _RATING = "answer.", "rating."

#: What was counted of one version, by kind.
Counts = Counter[str]


@dataclass(frozen=True, slots=True)
class CanaryLimits:
    """The operator's limits; a limit of 1 never triggers a rollback."""

    shares: Mapping[Outcome, float]  # of answers; DISLIKED: of ratings
    min_answers: int = 10
    min_ratings: int = 5
    max_slowdown: float = 0.0  # how many times as long as the stable version an answer may take; 0: any time
    false_alarms: float = 0.01  # the probability that a split loses a canary without reason
    window_s: float = 600.0

    @property
    def checks(self) -> int:
        """Number of kinds that are checked."""
        return sum(share < 1 for share in self.shares.values()) + (self.max_slowdown > 0)


@dataclass(frozen=True, slots=True)
class Span:
    """What was counted in one span of time, by version number, and its share of the false alarms."""

    counts: Mapping[int, Counts]
    share: float


@dataclass(frozen=True, slots=True)
class Breach:
    """Why a canary should be rolled back."""

    number: int
    outcome: Outcome
    reason: str

    def __str__(self) -> str:
        return self.reason


def answer_kind(outcome: Outcome) -> str:
    """The name under which answers with this outcome are counted."""
    return _ANSWER + outcome


def rating_kind(outcome: Outcome) -> str:
    """The name under which such ratings are counted."""
    return _RATING + outcome


def duration_kind(seconds: float) -> str:
    """The name of the class of duration that an answer is counted in."""
    number = math.floor(_CLASSES * math.log2(max(seconds, 1e-9)))
    return f"{_SLOW}{min(max(number, _EDGES[0] - 1), _EDGES[-1] + _CLASSES * 7)}"


def spans(whole: Mapping[int, Counts], window: Mapping[int, Counts], number: int) -> tuple[Span, Span]:
    """All answers since the split, and those of the window with this number (from 1)."""
    return Span(whole, 0.5), Span(window, 0.5 / (number * (number + 1)))


def find_breach(alias: Alias, tested: Sequence[Span], limits: CanaryLimits) -> Breach | None:
    """The first canary of the alias that is proven to be bad, or None."""
    if len(alias.targets) < 2 or not limits.checks:
        return None
    stable = current_version(alias)
    assert stable is not None, "a split has targets"
    canaries = [target.number for target in alias.targets if target.number != stable]
    for span in tested:
        # Each kind of each canary gets the same part of the probability.
        needed = math.log(limits.checks * len(canaries) / (limits.false_alarms * span.share))
        usual = span.counts.get(stable, Counter())
        for number in canaries:
            found = span.counts.get(number, Counter())
            if breach := next(_breaches(number, stable, found, usual, needed, limits), None):
                return breach
    return None


def _breaches(
    number: int, stable: int, found: Counts, usual: Counts, needed: float, limits: CanaryLimits
) -> Iterator[Breach]:
    for outcome, limit in limits.shares.items():
        prefix = _RATING if outcome is Outcome.DISLIKED else _ANSWER
        bad, total = found[prefix + outcome], _total(found, prefix)
        other_bad, other_total = usual[prefix + outcome], _total(usual, prefix)
        enough = limits.min_ratings if prefix == _RATING else limits.min_answers
        if limit >= 1 or total < enough or bad <= limit * total:
            continue
        # A stable version without any answer is nothing to compare with.
        is_worse = not other_total or proves_worse(bad, total, other_bad, other_total, needed)
        if is_worse and proves_above(bad, total, limit, needed):
            yield Breach(
                number,
                outcome,
                f"version {number}: {bad} of {total} {_WORDS[outcome]}, above the limit of {limit:.1%}, and "
                f"{other_bad} of {other_total} of version {stable}",
            )
    if limits.max_slowdown > 0 and _total(found, _SLOW) >= limits.min_answers:
        yield from _slow(number, stable, found, usual, needed, limits.max_slowdown)


def _slow(
    number: int, stable: int, found: Counts, usual: Counts, needed: float, factor: float
) -> Iterator[Breach]:
    """Whether more answers take longer than an edge times `factor` than answers of the other longer than the edge.

    Every edge is a test of its own; the mean of their evidence counts, which is evidence against all of them. Edges
    that cannot add much count as no evidence.
    """
    steps = math.ceil(_CLASSES * math.log2(max(factor, 1.0)))
    total, other_total = _total(found, _SLOW), _total(usual, _SLOW)
    if not other_total:
        return
    evidence = {
        edge: evidence_worse(bad, total, _longer(usual, edge), other_total)
        for edge in _EDGES
        if most_evidence(bad := _longer(found, edge + steps), total, _longer(usual, edge), other_total)
        >= needed
    }
    edge, most = max(evidence.items(), key=lambda item: item[1], default=(0, 0.0))
    ratios = [math.exp(value - most) for value in evidence.values()]
    if ratios and most + math.log(sum(ratios) / len(_EDGES)) >= needed:
        longer, bound = _longer(found, edge + steps), 2 ** (edge / _CLASSES)
        yield Breach(
            number,
            Outcome.SLOW,
            f"version {number}: {longer} of {total} answers took longer than "
            f"{bound * 2 ** (steps / _CLASSES):.2g} s, and {_longer(usual, edge)} of {other_total} of version "
            f"{stable} longer than {bound:.2g} s: it is more than {factor:g} times as slow",
        )


def _total(counts: Counts, prefix: str) -> int:
    return sum(count for kind, count in counts.items() if kind.startswith(prefix))


def _longer(counts: Counts, edge: int) -> int:
    """Answers that took longer than this edge."""
    return sum(
        count
        for kind, count in counts.items()
        if kind.startswith(_SLOW) and int(kind.removeprefix(_SLOW)) >= edge
    )
