"""Counts again, from what clients recorded, how much of a limit was used: in each window, and at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

#: Of `rpm` and `tpm`.
WINDOW_S = 60.0

#: A moment in seconds, and what was used then.
Use = tuple[float, int]
#: The begin and the end of a sequence that ran, in seconds.
Interval = tuple[float, float]


def window_sums(uses: Iterable[Use], span_s: float = WINDOW_S) -> Iterator[tuple[float, int]]:
    """What was used in the `span_s` seconds before each moment at which that changes, the moment included."""
    inside: deque[Use] = deque()
    total = 0
    for at_s, amount in sorted(uses):
        while inside and inside[0][0] + span_s <= at_s:
            left_at_s = inside[0][0] + span_s
            while inside and inside[0][0] + span_s <= left_at_s:
                total -= inside.popleft()[1]
            yield left_at_s, total
        inside.append((at_s, amount))
        total += amount
        yield at_s, total
    while inside:
        old_s, amount = inside.popleft()
        total -= amount
        yield old_s + span_s, total


def most_in_a_window(uses: Iterable[Use], span_s: float = WINDOW_S) -> int:
    """The largest sum of any window of this length."""
    return max((total for _, total in window_sums(uses, span_s)), default=0)


def mean_of_windows(uses: Iterable[Use], begin_s: float, end_s: float, span_s: float = WINDOW_S) -> float:
    """The mean sum of the windows that lie between `begin_s` and `end_s`, each as often as any other."""
    return _mean(window_sums(uses, span_s), begin_s + span_s, end_s)


def most_at_once(intervals: Iterable[Interval]) -> int:
    """How many of the intervals overlap at most; one that ends when another begins does not."""
    return max((running for _, running in _running(intervals)), default=0)


def mean_at_once(intervals: Iterable[Interval], begin_s: float, end_s: float) -> float:
    """How many intervals overlap in the mean over the time between `begin_s` and `end_s`."""
    return _mean(_running(intervals), begin_s, end_s)


def _running(intervals: Iterable[Interval]) -> Iterator[tuple[float, int]]:
    kept = [interval for interval in intervals if interval[0] < interval[1]]
    edges = [(begin_s, 1) for begin_s, _ in kept] + [(end_s, -1) for _, end_s in kept]
    running = 0
    for at_s, change in sorted(edges):  # at the same moment an end comes first
        running += change
        yield at_s, running


def _mean(steps: Iterable[tuple[float, int]], begin_s: float, end_s: float) -> float:
    """The mean of a step function over [begin_s, end_s]; it is 0 before its first step."""
    area, level, since_s = 0.0, 0, begin_s
    for at_s, value in steps:
        until_s = min(max(at_s, begin_s), end_s)
        area += level * (until_s - since_s)
        level, since_s = value, until_s
    area += level * (end_s - since_s)
    return area / (end_s - begin_s)
