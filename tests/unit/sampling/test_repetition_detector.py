"""The detector against a plain recount, and the adjustment's bounds."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampling.errors import InvalidRepetitionPolicy
from sampling.repetition_detector import (
    Adjustment,
    RepetitionCount,
    RepetitionDetector,
    SteeredOptions,
    Thresholds,
    adjust,
    next_strength,
)

NEWLINE = 0
SMALL = Thresholds(
    ngram_tokens=2, window_tokens=8, share=0.5, window_lines=4, line_copies=3, least_line_tokens=2
)


def watched(tokens, thresholds=SMALL) -> RepetitionDetector:
    detector = RepetitionDetector(thresholds, frozenset({NEWLINE}))
    for token in tokens:
        detector.push(token)
    return detector


def recounted_share(tokens, thresholds) -> float:
    window = tokens[-thresholds.window_tokens :]
    size = thresholds.ngram_tokens
    grams = [tuple(window[i : i + size]) for i in range(len(window) - size + 1)]
    return (len(grams) - len(set(grams))) / (thresholds.window_tokens - size + 1)


def recounted_line_copies(tokens, thresholds) -> int:
    lines, line = [], []
    for token in tokens:
        line.append(token)
        if token == NEWLINE:
            lines.append(tuple(line))
            line = []
    recent = [item for item in lines[-thresholds.window_lines :] if len(item) >= thresholds.least_line_tokens]
    return max(Counter(recent).values(), default=0) if len(line) < thresholds.window_tokens else 0


@given(st.lists(st.integers(0, 3), max_size=80))
def test_it_counts_what_a_plain_recount_counts(tokens):
    detector = watched(tokens)
    assert detector.share == pytest.approx(recounted_share(tokens, SMALL))
    assert detector.line_copies == recounted_line_copies(tokens, SMALL)
    assert 0 <= detector.closeness <= 1
    assert (detector.verdict is not None) == (detector.closeness == 1)


@given(pattern=st.lists(st.integers(1, 50), min_size=1, max_size=30), copies=st.integers(2, 40))
def test_every_hard_loop_is_found_within_a_window_and_a_pattern(pattern, copies):
    thresholds = Thresholds()
    tokens = (pattern * copies)[: thresholds.window_tokens + len(pattern)]
    if len(tokens) == thresholds.window_tokens + len(pattern):
        assert watched(tokens, thresholds).verdict == "ngrams"


@given(st.integers(0, 10**6))
def test_an_answer_without_repetition_is_never_a_loop(start):
    assert watched(range(start + 1, start + 400), Thresholds()).closeness == 0


def test_a_loop_with_a_counter_in_each_copy_is_found():
    # vLLM's detector, which wants exact copies, does not see this one: see test_against_vllm.py
    tokens = [token for i in range(30) for token in (*range(1, 16), 1000 + i)]
    assert watched(tokens, Thresholds()).verdict == "ngrams"


def test_a_line_among_other_lines_is_found():
    tokens = [t for i in range(5) for t in (1, 2, 3, 4, NEWLINE, *range(100 + 70 * i, 160 + 70 * i), NEWLINE)]
    detector = watched(tokens, Thresholds())
    assert detector.line_copies == 5
    assert detector.verdict == "lines"


def test_short_lines_are_not_looked_at():
    assert watched([9, NEWLINE] * 3 + [8, NEWLINE] * 3, Thresholds()).line_copies == 0


def test_lines_are_not_looked_at_without_newlines():
    detector = RepetitionDetector(SMALL)
    for token in [1, 2, 3, NEWLINE] * 10:
        detector.push(token)
    assert detector.line_copies == 0


def test_the_detector_lets_go():
    detector = watched([1, 2, 3, 4, NEWLINE] * 60, Thresholds())
    assert detector.closeness == 1
    for token in range(10, 10 + Thresholds().window_tokens):
        detector.push(token)
    assert detector.closeness == 0


def test_it_holds_no_more_than_its_windows():
    detector = watched(list(range(1, 5000)), Thresholds())
    assert len(detector._grams.items) == len(detector._grams.counts) == 128 - 4 + 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"ngram_tokens": 0},
        {"window_tokens": 4},
        {"share": 0},
        {"share": 1},
        {"line_copies": 1},
        {"window_lines": 2},
    ],
)
def test_thresholds_that_contradict_each_other(wrong):
    with pytest.raises(InvalidRepetitionPolicy, match=next(iter(wrong))):
        Thresholds(**wrong)


policies = st.builds(
    Adjustment,
    most_repetition_penalty=st.floats(1, 2),
    most_temperature=st.floats(0, 2),
    start=st.floats(0, 0.9),
    release_tokens=st.integers(1, 50),
)
drawings = st.builds(SteeredOptions, repetition_penalty=st.floats(0.5, 2), temperature=st.floats(0, 2))
unit = st.floats(0, 1)


@given(policies, drawings, unit, unit)
def test_adjusting_stays_within_bounds_and_rises_with_pressure(policy, asked, a, b):
    low, high = (adjust(policy, asked, strength) for strength in sorted((a, b)))
    ceiling = max(policy.most_repetition_penalty, asked.repetition_penalty)
    assert asked.repetition_penalty <= low.repetition_penalty <= high.repetition_penalty <= ceiling + 1e-12
    ceiling = max(policy.most_temperature, asked.temperature)
    assert asked.temperature <= low.temperature <= high.temperature <= ceiling + 1e-12
    assert adjust(policy, asked, 0) == asked


@given(policies, st.floats(0.5, 2), unit)
def test_greedy_stays_greedy(policy, penalty, strength):
    assert adjust(policy, SteeredOptions(penalty, 0.0), strength).temperature == 0


@given(policies, unit, unit)
def test_pressure_rises_at_once_and_falls_slowly(policy, strength, closeness):
    after = next_strength(policy, strength, closeness)
    assert 0 <= after <= 1
    assert after >= strength - 1 / policy.release_tokens - 1e-12
    if closeness == 1:
        assert after == 1
    if closeness <= policy.start:
        assert after <= strength


@given(policies)
def test_pressure_lets_go_within_its_tokens(policy):
    strength = 1.0
    for _ in range(policy.release_tokens):
        strength = next_strength(policy, strength, policy.start)
    assert strength == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [{"most_repetition_penalty": 0.9}, {"most_temperature": 2.1}, {"start": 1.0}, {"release_tokens": 0}],
)
def test_bounds_out_of_range(wrong):
    with pytest.raises(InvalidRepetitionPolicy, match=next(iter(wrong))):
        Adjustment(**wrong)


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 7))
def test_an_answer_is_counted_once_and_only_when_it_was_steered(tokens, step):
    """Whatever the pieces it comes in, and whatever another answer does."""
    count = RepetitionCount(lambda: RepetitionDetector(SMALL), lambda d: d.closeness > Adjustment().start)
    pieces = [tokens[at : at + step] for at in range(0, len(tokens), step)]
    told = []
    for piece in pieces:
        told.append(count.push(0, piece))
        assert not count.push(1, [])
    pressures = [
        next_strength(Adjustment(), 0.0, watched(tokens[:length]).closeness)
        for length in range(1, len(tokens) + 1)
    ]
    assert sum(told) == (max(pressures, default=0.0) > 0)
