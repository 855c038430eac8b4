"""The bounds of paired comparisons hold as often as they say."""

from __future__ import annotations

import random

import pytest

from adapters.promotion.intervals import Figure, figures_of


def sums(pairs: list[tuple[float, float]]) -> tuple[float, ...]:
    return (
        float(len(pairs)),
        sum(one for one, _ in pairs),
        sum(one * one for one, _ in pairs),
        sum(other for _, other in pairs),
        sum(other * other for _, other in pairs),
        sum((other - one) ** 2 for one, other in pairs),
    )


def figure(name: str, pairs: list[tuple[float, float]]) -> Figure:
    return figures_of({name: sums(pairs)})[name]


def test_means_and_their_difference() -> None:
    found = figure("ends", [(1.0, 0.0), (1.0, 1.0), (0.0, 0.0), (1.0, 1.0)])
    assert (found.count, found.served, found.shadow, found.difference) == (4, 0.75, 0.5, -0.25)
    assert (found.low, found.high) == (-1.0, 1.0), "four requests say nothing"


@pytest.mark.parametrize("name", ["ends", "answer_tokens"])
def test_too_few_have_no_bounds(name: str) -> None:
    assert figure(name, [(1.0, 0.0)]).low is None
    assert (figure("answer_tokens", [(1.0, 0.0)] * 29).low is None) and figure(
        "answer_tokens", [(1.0, 2.0)] * 30
    ).low


def test_nothing_compared_is_no_figure() -> None:
    assert figures_of({"ends": (0.0,) * 6}) == {}


@pytest.mark.parametrize(("name", "scale"), [("ends", 1.0), ("answer_tokens", 50.0)])
def test_the_true_difference_is_within_the_bounds(name: str, scale: float) -> None:
    rng, missed = random.Random(1), 0
    for _ in range(200):
        pairs = [(scale * (rng.random() < 0.5), scale * (rng.random() < 0.7)) for _ in range(300)]
        found = figure(name, pairs)
        assert found.low is not None and found.high is not None
        missed += not found.low <= 0.2 * scale <= found.high
    assert missed <= 20, "5 % of 200 are expected at most"
    if name == "ends":
        many = figure(name, [(1.0 * (rng.random() < 0.5), 1.0 * (rng.random() < 0.7)) for _ in range(3000)])
        assert many.low is not None and many.low > 0, "a real difference is found"
