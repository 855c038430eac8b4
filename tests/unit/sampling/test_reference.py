"""Checks the reference of decoding with worked examples and with its own laws.

Each example's figures are worked out in the comment beside it. No example disagrees with its definition. The
nucleus example is a tie, as 0.40 + 0.25 + 0.15 + 0.10 is p itself: the definition's ≥ decides it.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.unit.sampling import reference
from tests.unit.sampling.reference import Counts, Decoding

EXAMPLE = np.array([2.0, 1.0, 0.5])
NUCLEUS = np.array([0.40, 0.25, 0.15, 0.10, 0.05, 0.03, 0.02])


def counts(answer, prompt=None) -> Counts:
    answer = np.array(answer)
    return Counts(prompt=np.zeros_like(answer) if prompt is None else np.array(prompt), answer=answer)


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        # exp(2, 1, 0.5) = 7.389, 2.718, 1.649; sum 11.756
        (1.0, [0.6285, 0.2312, 0.1402]),
        # exp(4, 2, 1) = 54.598, 7.389, 2.718; sum 64.705
        (0.5, [0.8438, 0.1142, 0.0420]),
        # exp(1, 0.5, 0.25) = 2.718, 1.649, 1.284; sum 5.651
        (2.0, [0.4810, 0.2918, 0.2272]),
    ],
)
def test_temperature_example(temperature, expected):
    assert reference.softmax(EXAMPLE, temperature) == pytest.approx(expected, abs=5e-5)


def test_nucleus_example_keeps_four():
    kept = reference.top_p(NUCLEUS, 0.9)
    assert np.flatnonzero(kept).tolist() == [0, 1, 2, 3]
    # 0.40, 0.25, 0.15, 0.10 over 0.90
    assert kept[:4] == pytest.approx([0.4444, 0.2778, 0.1667, 0.1111], abs=5e-5)


def test_repetition_penalty_example():
    logits = np.array([2.5, 2.0, 1.8, 1.5])
    penalised = reference.repetition_penalty(logits, counts([1, 3, 1, 0]), 1.2)
    # 2.5 / 1.2, 2.0 / 1.2, 1.8 / 1.2, and the unseen one as it was; how often it was seen does not matter
    assert penalised == pytest.approx([2.0833, 1.6667, 1.5, 1.5], abs=5e-5)


def test_repetition_penalty_multiplies_negative_logits_and_counts_the_prompt():
    penalised = reference.repetition_penalty(
        np.array([-1.0, 0.0, 2.0]), counts([1, 1, 0], prompt=[0, 0, 4]), 2.0
    )
    assert penalised == pytest.approx([-2.0, 0.0, 1.0])


def test_frequency_and_presence_example():
    # 5 × 0.5 = 2.5 off for frequency, 0.5 once for presence; the prompt's tokens pay nothing
    seen = counts([5, 0, 1], prompt=[0, 9, 0])
    assert reference.frequency_penalty(np.zeros(3), seen, 0.5) == pytest.approx([-2.5, 0, -0.5])
    assert reference.presence_penalty(np.zeros(3), seen, 0.5) == pytest.approx([-0.5, 0, -0.5])


def test_min_p_and_top_k_by_hand():
    # 0.3 × 0.40 = 0.12: the first three
    assert np.flatnonzero(reference.min_p(NUCLEUS, 0.3)).tolist() == [0, 1, 2]
    assert np.flatnonzero(reference.top_k(NUCLEUS, 2)).tolist() == [0, 1]
    assert reference.top_k(NUCLEUS, 0) is reference.top_k(NUCLEUS, -1) is NUCLEUS
    assert np.flatnonzero(reference.top_k(np.array([0.3, 0.3, 0.3, 0.1]), 1)).tolist() == [0, 1, 2]


def test_greedy_takes_the_lowest_of_equals():
    assert reference.greedy(np.array([1.0, 3.0, 3.0])).tolist() == [0, 1, 0]


def test_softmax_refuses_zero():
    with pytest.raises(ValueError, match="greedy"):
        reference.softmax(EXAMPLE, 0)


def test_order_bias_before_penalties_before_temperature():
    # (1.0 + 1.0) / 2 = 1.0 for the biased and seen token, then all over T = 0.5
    outcome = reference.probabilities(
        np.array([1.0, 0.0]),
        counts([1, 0]),
        Decoding(logit_bias={0: 1.0}, repetition_penalty=2.0, temperature=0.5),
    )
    assert outcome == pytest.approx(reference.softmax(np.array([2.0, 0.0])))


def test_order_repetition_before_frequency_and_presence():
    # 2 / 2 - 3 × 0.5 - 0.25 = -0.75
    outcome = reference.probabilities(
        np.array([2.0, 0.0]),
        counts([3, 0]),
        Decoding(repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25),
    )
    assert outcome == pytest.approx(reference.softmax(np.array([-0.75, 0.0])))


def test_order_top_k_before_top_p():
    # k = 2 leaves 0.40 and 0.25, renormalised 0.615 and 0.385: p = 0.6 keeps one; of all seven it keeps two
    logits = np.log(NUCLEUS)
    outcome = reference.probabilities(logits, counts([0] * 7), Decoding(top_k=2, top_p=0.6))
    assert np.flatnonzero(outcome).tolist() == [0]
    assert np.flatnonzero(reference.top_p(NUCLEUS, 0.6)).tolist() == [0, 1]


def test_allowed_and_banned_tokens():
    outcome = reference.probabilities(
        np.zeros(4),
        counts([0] * 4),
        Decoding(allowed_token_ids=[0, 1, 2], banned_token_ids=[0], logit_bias={0: 100.0}),
    )
    assert outcome == pytest.approx([0, 0.5, 0.5, 0])


logit_rows = arrays(np.float64, st.integers(2, 12), elements=st.floats(-30, 30))
decodings = st.builds(
    Decoding,
    temperature=st.floats(0.01, 2),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(-1, 15),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(0.5, 2),
    frequency_penalty=st.floats(-2, 2),
    presence_penalty=st.floats(-2, 2),
)


@given(logits=logit_rows, params=decodings, data=st.data())
def test_it_is_a_distribution_and_leaves_its_input_alone(logits, params, data):
    seen = data.draw(arrays(np.int64, logits.size, elements=st.integers(0, 3)))
    before = logits.copy()
    outcome = reference.probabilities(logits, counts(seen), params)
    assert outcome.sum() == pytest.approx(1)
    assert (outcome >= 0).all()
    assert (logits == before).all()


@given(logits=logit_rows, p=st.floats(0.01, 0.999))
def test_the_nucleus_is_the_smallest_set_that_reaches_p(logits, p):
    drawn = reference.softmax(logits)
    kept = reference.top_p(drawn, p) > 0
    assert drawn[kept].sum() >= p - 1e-12
    assert drawn[kept].sum() - drawn[kept].min() < p
    if not kept.all():
        assert drawn[kept].min() >= drawn[~kept].max()


@given(logits=logit_rows)
def test_neutral_options_change_nothing(logits):
    seen = counts(np.ones(logits.size, dtype=np.int64), prompt=np.ones(logits.size, dtype=np.int64))
    assert reference.probabilities(logits, seen, Decoding()) == pytest.approx(reference.softmax(logits))


@given(logits=logit_rows, low=st.floats(0.05, 1), factor=st.floats(1, 5))
def test_heat_flattens(logits, low, factor):
    assert reference.softmax(logits, low).max() >= reference.softmax(logits, low * factor).max() - 1e-12
