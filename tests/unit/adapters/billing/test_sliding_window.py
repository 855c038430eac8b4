from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.billing.sliding_window import SlidingWindow

SPAN_S = 60.0

EVENTS = st.lists(st.tuples(st.floats(0, 40), st.integers(0, 50)), max_size=40)


@settings(deadline=None)
@given(EVENTS, st.floats(0, 200))
def test_total_is_never_below_the_true_sum_and_at_most_a_second_behind(
    steps: list[tuple[float, int]], later: float
) -> None:
    window, now, events = SlidingWindow(), 0.0, []
    for pause, amount in steps:
        now += pause
        window.add(now, amount)
        events.append((now, amount))
        exact = sum(a for t, a in events if t >= now - SPAN_S)
        a_second_longer = sum(a for t, a in events if t >= now - SPAN_S - 1)
        assert exact <= window.total(now) <= a_second_longer
    now += later
    assert window.total(now) >= sum(a for t, a in events if t >= now - SPAN_S)


@settings(deadline=None)
@given(EVENTS, st.integers(1, 500))
def test_after_wait_s_the_amount_has_left_and_not_before(steps: list[tuple[float, int]], amount: int) -> None:
    window, now = SlidingWindow(), 0.0
    for pause, added in steps:
        now += pause
        window.add(now, added)
    before = window.total(now)
    wait_s = window.wait_s(now, amount)
    assert 0 <= wait_s <= SPAN_S + 1
    if wait_s:
        still = SlidingWindow()
        still._buckets, still._total = window._buckets.copy(), window._total
        assert before - still.total(now + wait_s - 0.01) < amount
    assert before - window.total(now + wait_s) >= min(amount, before)


def test_reset_s_is_when_the_window_is_empty() -> None:
    window = SlidingWindow()
    assert window.reset_s(5.0) == 0
    window.add(5.5, 3)
    window.add(9.5, 3)
    assert window.reset_s(10.0) == 60.0
    assert window.total(69.9) == 3
    assert window.total(70.0) == 0
