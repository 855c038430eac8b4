"""A histogram of seconds that costs one bisection and two additions per value and can be merged.

NOTE: prometheus_client's `Histogram.observe` takes a lock and loops over the buckets for every value, and cannot be
merged (docs/decisions has the figures); this one counts every token of every stream.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

#: Upper bounds in seconds: from one step of a small model to a request that waits in the queue.
LATENCY_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
#: Upper bounds in seconds between two tokens of one answer.
GAP_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)


class LatencyHistogram:
    """Counts per bucket and their sum; `bounds` are inclusive upper bounds, the last bucket has none."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def merge(self, other: LatencyHistogram) -> None:
        """Add the counts of another histogram with the same bounds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def copy(self) -> LatencyHistogram:
        """A copy that later values do not change."""
        made = LatencyHistogram(self.bounds)
        made.counts, made.total = self.counts[:], self.total
        return made

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus's buckets: upper bound as text, and the number of values up to it."""
        buckets, running = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            buckets.append((bound, float(running)))
        return buckets


def quantile(values: LatencyHistogram | None, part: float) -> float | None:
    """An estimate in seconds, linear within its bucket; above the last bound, that bound. None: there are none."""
    if values is None or not (total := sum(values.counts)):
        return None
    wanted, below = part * total, 0
    for at, count in enumerate(values.counts[:-1]):
        if below + count >= wanted and count:
            low = values.bounds[at - 1] if at else 0.0
            return round(low + (values.bounds[at] - low) * (wanted - below) / count, 4)
        below += count
    return values.bounds[-1]
