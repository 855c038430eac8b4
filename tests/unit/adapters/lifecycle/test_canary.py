"""The decision about a canary, from counts."""

from __future__ import annotations

import pytest

from adapters.lifecycle.canary import (
    CanaryLimits,
    Counts,
    Outcome,
    answer_kind,
    duration_kind,
    find_breach,
    rating_kind,
    spans,
)
from adapters.models import Alias, AliasTarget

LIMITS = CanaryLimits(
    {Outcome.ERROR: 0.05, Outcome.EMPTY: 0.1, Outcome.REPEATING: 1.0, Outcome.DISLIKED: 0.3}
)
SPLIT = Alias("acme", "support", 1, (AliasTarget(1, 90), AliasTarget(2, 10)))
GOOD, ERROR, EMPTY, REPEATING = (
    answer_kind(outcome) for outcome in (Outcome.GOOD, Outcome.ERROR, Outcome.EMPTY, Outcome.REPEATING)
)
UP, DOWN = rating_kind(Outcome.GOOD), rating_kind(Outcome.DISLIKED)


def judge(
    stable: dict[str, int], canary: dict[str, int], limits: CanaryLimits = LIMITS, alias: Alias = SPLIT
) -> Outcome | None:
    whole = {1: Counts(stable), 2: Counts(canary)}
    breach = find_breach(alias, spans(whole, {}, 1), limits)
    return breach and breach.outcome


def test_a_bad_canary_is_told_with_its_figures() -> None:
    whole = {1: Counts({GOOD: 498, ERROR: 2}), 2: Counts({GOOD: 12, ERROR: 8})}
    breach = find_breach(SPLIT, spans(whole, {}, 1), LIMITS)
    assert breach is not None and (breach.number, breach.outcome) == (2, Outcome.ERROR)
    assert (
        str(breach) == "version 2: 8 of 20 answers failed, above the limit of 5.0%, and 2 of 500 of version 1"
    )


@pytest.mark.parametrize(
    ("stable", "canary"),
    [
        ({GOOD: 500}, {GOOD: 20}),
        ({GOOD: 500}, {ERROR: 9}),  # fewer than the minimum
        ({GOOD: 500}, {GOOD: 18, ERROR: 2}),  # above the limit, but this happens by chance
        ({GOOD: 250, ERROR: 250}, {GOOD: 12, ERROR: 10}),  # everything fails: not the canary's fault
        ({GOOD: 500, ERROR: 500}, {GOOD: 20}),  # the stable one is bad; nothing better to go back to
        ({ERROR: 3}, {GOOD: 10, ERROR: 10}),  # too little is known of the stable version
        ({GOOD: 500}, {REPEATING: 30}),  # a limit of 1 never triggers
        ({UP: 500}, {UP: 9, DOWN: 1}),
        ({GOOD: 500, UP: 500}, {GOOD: 100, DOWN: 4}),  # fewer ratings than the minimum
    ],
)
def test_what_is_no_reason_to_roll_back(stable: dict[str, int], canary: dict[str, int]) -> None:
    assert judge(stable, canary) is None


@pytest.mark.parametrize(
    ("stable", "canary", "outcome"),
    [
        ({GOOD: 500}, {ERROR: 10}, Outcome.ERROR),
        ({GOOD: 500}, {GOOD: 20, EMPTY: 20}, Outcome.EMPTY),
        ({UP: 500}, {UP: 1, DOWN: 14}, Outcome.DISLIKED),
        ({}, {GOOD: 10, ERROR: 20}, Outcome.ERROR),  # nothing to compare with is no excuse
        ({GOOD: 800, ERROR: 200}, {GOOD: 5, ERROR: 40}, Outcome.ERROR),  # the stable one is less bad
    ],
)
def test_what_is_a_reason(stable: dict[str, int], canary: dict[str, int], outcome: Outcome) -> None:
    assert judge(stable, canary) is outcome


def test_only_split_aliases_have_canaries_and_the_heaviest_is_none() -> None:
    bad = {ERROR: 100}
    assert judge({}, bad, alias=Alias("acme", "support", 1, (AliasTarget(2),))) is None
    heavy = Alias("acme", "support", 1, (AliasTarget(1, 1), AliasTarget(2, 8)))
    assert judge({GOOD: 100}, bad, alias=heavy) is None
    three = Alias("acme", "support", 1, (AliasTarget(1, 8), AliasTarget(2, 1), AliasTarget(3, 1)))
    whole = {1: Counts({GOOD: 100}), 2: Counts({GOOD: 20}), 3: Counts({EMPTY: 20})}
    breach = find_breach(three, spans(whole, {}, 1), LIMITS)
    assert breach is not None and (breach.number, breach.outcome) == (3, Outcome.EMPTY)


def test_later_windows_need_more_evidence() -> None:
    window = {1: Counts({GOOD: 60}), 2: Counts({GOOD: 5, ERROR: 6})}
    found = [find_breach(SPLIT, spans({}, window, number), LIMITS) is not None for number in (1, 2, 300)]
    assert found == [True, True, False]


def test_a_smaller_bound_on_false_alarms_needs_more_evidence() -> None:
    counts = ({GOOD: 60}, {GOOD: 5, ERROR: 6})
    strict = CanaryLimits(LIMITS.shares, false_alarms=1e-6)
    assert judge(*counts) is Outcome.ERROR and judge(*counts, strict) is None


def durations(**counts: int) -> dict[str, int]:
    """Answers by seconds: `s1_5=3` is three that took 1.5 s."""
    return {duration_kind(float(name[1:].replace("_", "."))): count for name, count in counts.items()}


@pytest.mark.parametrize(
    ("stable", "canary", "is_slow"),
    [
        (durations(s1=200, s2=20), durations(s1=40, s2=4), False),
        (durations(s1=200, s2=20), durations(s1_9=40, s3=4), False),  # less than twice
        (durations(s1=200, s2=20), durations(s5=40), True),
        (durations(s1=200, s2=20), durations(s5=9), False),  # too few
        (durations(s5=200), durations(s1=40), False),  # faster
        ({}, durations(s5=40), False),
    ],
)
def test_a_canary_that_takes_longer(stable: dict[str, int], canary: dict[str, int], is_slow: bool) -> None:
    limits = CanaryLimits({}, max_slowdown=2.0)
    assert (judge(stable, canary, limits) is Outcome.SLOW) == is_slow
    assert judge(stable, canary) is None


def test_classes_of_duration_have_ends() -> None:
    kinds = [duration_kind(seconds) for seconds in (0.0, 1e-6, 1.0, 1.2, 1e9, 1e300)]
    assert kinds[0] == kinds[1] and kinds[2] != kinds[3] and kinds[4] == kinds[5]
    assert all(len(kind) <= 24 for kind in kinds)
