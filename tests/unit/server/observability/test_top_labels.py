"""Ten thousand adapters do not make ten thousand series, and the busy ones are the ones that are shown."""

from __future__ import annotations

import random

from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from manual_clock import ManualClock

from server.observability.top_labels import REVIEW_INTERVAL_S, TopLabels


@settings(max_examples=examples(60), deadline=None)
@given(
    limit=st.integers(1, 40),
    arrivals=st.lists(st.tuples(st.integers(0, 200), st.floats(0, REVIEW_INTERVAL_S)), max_size=300),
)
def test_never_more_than_the_limit_and_every_drop_is_told(
    limit: int, arrivals: list[tuple[int, float]]
) -> None:
    clock, shown = ManualClock(0.0), set()
    top: TopLabels[int] = TopLabels(limit, shown.discard, clock)
    for key, pause_s in arrivals:
        clock.now_s += pause_s
        if top.count(key):
            shown.add(key)
        assert len(shown) <= limit
        assert len(top._chosen) + len(top._others) <= limit + 8 * limit + 1


def test_the_busy_displace_those_that_merely_came_first() -> None:
    clock, shown = ManualClock(0.0), set()
    top: TopLabels[int] = TopLabels(10, shown.discard, clock)
    draw = random.Random(1)
    for _ in range(20_000):
        clock.now_s += 0.02
        key = draw.randrange(10) if draw.random() < 0.5 else draw.randrange(10, 10_000)
        # those who came first are not the busy ones
        if top.count(-key if clock.now_s < 1 else key):
            shown.add(-key if clock.now_s < 1 else key)
    assert set(range(1, 10)) <= shown


def test_two_of_a_kind_do_not_alternate() -> None:
    clock, dropped = ManualClock(0.0), []
    top: TopLabels[str] = TopLabels(1, dropped.append, clock)
    for step in range(1000):
        clock.now_s += 1
        top.count("ab"[step % 2])
    assert dropped == []
