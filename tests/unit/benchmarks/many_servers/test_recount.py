"""The arithmetic of windows and of what runs at once."""

from __future__ import annotations

import random

import pytest

from benchmarks.many_servers.recount import (
    mean_at_once,
    mean_of_windows,
    most_at_once,
    most_in_a_window,
)


def test_a_window_has_what_is_less_than_a_minute_apart() -> None:
    assert most_in_a_window([(0.0, 3), (59.9, 4), (60.0, 5), (119.8, 1)]) == 10
    assert most_in_a_window([(0.0, 3), (60.0, 4)]) == 4
    assert most_in_a_window([]) == 0


def test_the_fullest_window_is_that_of_trying_all() -> None:
    draw = random.Random(4)
    uses = [(draw.random() * 300, draw.randint(1, 9)) for _ in range(400)]
    tried = max(sum(n for at, n in uses if end - 60 < at <= end) for end, _ in uses)
    assert most_in_a_window(uses) == tried


def test_the_mean_is_over_all_windows_inside() -> None:
    assert mean_of_windows([(10.0, 100)], 0.0, 130.0) == pytest.approx(100 * 10 / 70)
    assert mean_of_windows([(0.0, 50), (61.0, 50)], 0.0, 121.0) == pytest.approx(50 * 60 / 61)
    steady = [(float(second), 2) for second in range(200)]
    assert mean_of_windows(steady, 0.0, 199.0) == pytest.approx(120)


def test_what_ends_when_another_begins_does_not_run_beside_it() -> None:
    assert most_at_once([(0.0, 1.0), (1.0, 2.0), (0.5, 1.5)]) == 2
    assert most_at_once([(0.0, 5.0), (1.0, 4.0), (2.0, 3.0)]) == 3
    assert most_at_once([]) == 0 == most_at_once([(1.0, 1.0)])


def test_the_mean_at_once_is_over_the_time_asked_for() -> None:
    intervals = [(0.0, 4.0), (2.0, 10.0)]
    assert mean_at_once(intervals, 1.0, 5.0) == pytest.approx((3 + 3) / 4)
    assert mean_at_once(intervals, 20.0, 30.0) == 0.0
    assert mean_at_once([], 0.0, 1.0) == 0.0
