"""The evidence of sequential tests: monotone, never too early, and false alarms within their bound."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from adapters.lifecycle.canary import CanaryLimits, Counts, Outcome, answer_kind, find_breach, spans
from adapters.lifecycle.sequential_test import (
    evidence_above,
    evidence_worse,
    most_evidence,
    proves_above,
    proves_worse,
)
from adapters.models import Alias, AliasTarget

ERROR, GOOD = answer_kind(Outcome.ERROR), answer_kind(Outcome.GOOD)
SPLIT = Alias("acme", "support", 1, (AliasTarget(1, 9), AliasTarget(2, 1)))


def test_evidence_grows_with_bad_answers_and_falls_with_good_ones() -> None:
    for other in ((0, 90), (9, 90), (45, 90)):
        by_bad = [evidence_worse(bad, 20, *other) for bad in range(21)]
        assert by_bad == sorted(by_bad)
        by_total = [evidence_worse(5, total, *other) for total in range(5, 60)]
        assert by_total == sorted(by_total, reverse=True)
        above = [evidence_above(bad, 20, 0.2) for bad in range(21)]
        assert above == sorted(above)


@pytest.mark.parametrize(
    ("counts", "most"),
    [((0, 0, 0, 0), 0.0), ((5, 5, 0, 0), 0.0), ((50, 50, 500, 500), 0.0), ((5, 50, 50, 500), 0.5)],
)
def test_without_a_difference_there_is_no_evidence(counts: tuple[int, int, int, int], most: float) -> None:
    assert evidence_worse(*counts) <= most


def test_a_clear_difference_needs_few_answers() -> None:
    assert evidence_worse(5, 5, 0, 45) > 10
    assert evidence_worse(10, 20, 3, 180) > 15


def test_the_ends_of_a_limit() -> None:
    assert evidence_above(0, 10, 0.0) == 0 and evidence_above(1, 10, 0.0) == math.inf
    assert evidence_above(10, 10, 1.0) == -math.inf


@pytest.mark.parametrize("limit", [0.05, 0.2, 0.5])
def test_the_expected_likelihood_ratio_is_at_most_1(limit: float) -> None:
    """The exact expectation over all outcomes of 25 answers, at the border of the null hypothesis and below."""
    for rate in (limit, limit / 2):
        chances = [math.comb(25, bad) * rate**bad * (1 - rate) ** (25 - bad) for bad in range(26)]
        mean = sum(p * math.exp(evidence_above(bad, 25, limit)) for bad, p in enumerate(chances))
        assert mean <= 1 + 1e-9
        pairs = (
            (p * q, evidence_worse(bad, 25, other, 25))
            for bad, p in enumerate(chances)
            for other, q in enumerate(chances)
        )
        assert sum(p * math.exp(value) for p, value in pairs) <= 1 + 1e-9


def test_the_quick_bound_is_one() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        total, other_total = (int(n) for n in random.integers(1, 200, 2))
        bad, other_bad = int(random.integers(0, total + 1)), int(random.integers(0, other_total + 1))
        counts = (bad, total, other_bad, other_total)
        assert evidence_worse(*counts) <= most_evidence(*counts) + 1e-9
        needed = max(0.5, evidence_worse(*counts))
        assert proves_worse(*counts, needed) == (evidence_worse(*counts) >= needed)
        for limit in (0.0, 0.05, 0.5, 1.0):
            evidence = evidence_above(bad, total, limit)
            for needed in (0.5, max(0.5, evidence - 1e-9), max(0.5, evidence) + 1e-9):
                assert proves_above(bad, total, limit, needed) == (evidence >= needed)


def simulate(
    canaries: int,
    answers: int,
    rates: tuple[float, float],
    limits: CanaryLimits,
    seed: int,
    drift: bool = False,
) -> tuple[float, float]:
    """The share of simulated canaries that are rolled back, and the mean number of a canary's answers until then.

    A canary gets one answer of ten and is judged after each of its own. `rates` are those of bad answers of the
    stable version and of the canary; with `drift`, both are bad at the same times: five times as often in one
    window of four. Every 200 of a canary's answers a new window begins.
    """
    random = np.random.default_rng(seed)
    lengths = []
    for _ in range(canaries):
        whole: dict[int, Counts] = {1: Counts(), 2: Counts()}
        window: dict[int, Counts] = {1: Counts(), 2: Counts()}
        number = 1
        worse = np.where(np.arange(answers) // 200 % 4 == 1, 5.0, 1.0) if drift else np.ones(answers)
        stable = random.binomial(9, np.minimum(rates[0] * worse, 1.0))
        canary = random.random(answers) < rates[1] * worse
        for step in range(answers):
            if step and step % 200 == 0:
                number, window = number + 1, {1: Counts(), 2: Counts()}
            for counts in (whole, window):
                counts[1][ERROR] += int(stable[step])
                counts[1][GOOD] += 9 - int(stable[step])
                counts[2][ERROR if canary[step] else GOOD] += 1
            # Evidence only grows with a bad answer.
            if canary[step] and find_breach(SPLIT, spans(whole, window, number), limits):
                lengths.append(step + 1)
                break
    return len(lengths) / canaries, float(np.mean(lengths)) if lengths else math.nan


#: A limit near 0, so that only the comparison with the stable version decides.
RELATIVE = CanaryLimits({Outcome.ERROR: 0.001}, min_answers=1, false_alarms=0.05)
ABSOLUTE = CanaryLimits({Outcome.ERROR: 0.1}, min_answers=1, false_alarms=0.05)
NO_WORSE = {
    "equal and seldom": (RELATIVE, (0.02, 0.02), False),
    "equal and often": (RELATIVE, (0.3, 0.3), False),
    "equal, and bad at times": (RELATIVE, (0.04, 0.04), True),
    "worse, but at the limit": (ABSOLUTE, (0.0, 0.1), False),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", NO_WORSE)
def test_false_alarms_are_within_the_bound(case: str) -> None:
    limits, rates, drift = NO_WORSE[case]
    share, _ = simulate(60, 400, rates, limits, seed=1, drift=drift)
    assert share <= limits.false_alarms


def test_a_bad_canary_is_found() -> None:
    share, answers = simulate(60, 400, (0.02, 0.4), ABSOLUTE, seed=2)
    assert share == 1.0 and answers < 40


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", NO_WORSE)
def test_false_alarms_of_10000_canaries(case: str) -> None:
    limits, rates, drift = NO_WORSE[case]
    share, _ = simulate(10_000, 500, rates, limits, seed=3, drift=drift)
    print(json.dumps({"case": case, "false_alarms": share, "bound": limits.false_alarms}))
    assert share <= limits.false_alarms


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rate", [0.15, 0.2, 0.3, 0.5, 1.0])
def test_how_soon_a_bad_canary_is_found(rate: float) -> None:
    share, answers = simulate(500, 2000, (0.02, rate), ABSOLUTE, seed=4)
    print(json.dumps({"rate": rate, "found": share, "answers": answers}))
    assert share > 0.9
