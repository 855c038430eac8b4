from __future__ import annotations

from datetime import UTC, datetime

import pytest

from adapters.lifecycle.canary import Breach, CanaryLimits, CanaryWatch, Outcome
from adapters.models import Alias, AliasTarget, Version, VersionState

LIMITS = CanaryLimits(
    {Outcome.ERROR: 0.05, Outcome.EMPTY: 0.1, Outcome.REPEATING: 1.0}, min_answers=20, window_s=100
)
SPLIT = Alias("acme", "support", 1, (AliasTarget(1, 90), AliasTarget(2, 10)))
NAME = "acme-support"


def version(number: int) -> Version:
    now = datetime.now(UTC)
    return Version("acme", "support", number, number, VersionState.READY, "upload", now)


def watch_after(now_s: float = 0.0, **answers: dict[Outcome, int]) -> CanaryWatch:
    watch = CanaryWatch(LIMITS)
    for name, counts in answers.items():
        for outcome, count in counts.items():
            for _ in range(count):
                watch.note(version(int(name[1:])), outcome, now_s)
    return watch


GOOD, ERROR, EMPTY, REPEATING = Outcome.GOOD, Outcome.ERROR, Outcome.EMPTY, Outcome.REPEATING


def test_a_bad_canary_is_told_with_its_figures() -> None:
    watch = watch_after(v1={GOOD: 500}, v2={GOOD: 18, ERROR: 2})
    breach = watch.judge(SPLIT, NAME, 1.0)
    assert breach == Breach(2, ERROR, 0.1, 0.05, 20)
    assert str(breach) == "version 2: 10.0% of 20 answers were error, above the limit of 5.0%"


@pytest.mark.parametrize(
    ("stable", "canary"),
    [
        ({GOOD: 500}, {GOOD: 20}),
        ({GOOD: 500}, {GOOD: 10, ERROR: 9}),  # too few answers yet
        ({GOOD: 500}, {GOOD: 19, ERROR: 1}),  # at the limit is not above it
        ({GOOD: 250, ERROR: 250}, {GOOD: 12, ERROR: 10}),  # everything fails: not the canary's fault
        ({GOOD: 500, ERROR: 500}, {GOOD: 20}),  # the stable one is bad; nothing better to go back to
        ({GOOD: 500}, {REPEATING: 30}),  # a limit of 1 never triggers
    ],
)
def test_what_is_no_reason_to_roll_back(stable: dict[Outcome, int], canary: dict[Outcome, int]) -> None:
    assert watch_after(v1=stable, v2=canary).judge(SPLIT, NAME, 1.0) is None


def test_a_stable_version_with_few_answers_is_no_excuse() -> None:
    assert watch_after(v1={ERROR: 3}, v2={GOOD: 10, ERROR: 10}).judge(SPLIT, NAME, 1.0) is not None


def test_only_split_aliases_have_canaries_and_the_heaviest_is_none() -> None:
    watch = watch_after(v1={ERROR: 100}, v2={ERROR: 100}, v3={EMPTY: 30, GOOD: 30})
    assert watch.judge(Alias("acme", "support", 1, (AliasTarget(2),)), NAME, 1.0) is None
    three = Alias("acme", "support", 1, (AliasTarget(1, 1), AliasTarget(2, 8), AliasTarget(3, 1)))
    breach = watch.judge(three, NAME, 1.0)
    assert breach is not None and (breach.number, breach.outcome) == (3, EMPTY)


def test_old_answers_and_forgotten_adapters_do_not_count() -> None:
    watch = watch_after(v1={GOOD: 500}, v2={ERROR: 30})
    assert watch.judge(SPLIT, NAME, 99.0) is not None
    assert watch.judge(SPLIT, NAME, 100.0) is None
    for second in range(200, 300):
        watch.note(version(2), ERROR, float(second))
    assert watch.judge(SPLIT, "other-support", 299.0) is None
    assert watch.judge(SPLIT, NAME, 299.0) is not None
    watch.forget(NAME)
    assert watch.judge(SPLIT, NAME, 299.0) is None
