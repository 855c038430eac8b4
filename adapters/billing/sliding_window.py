"""A sliding window of integer counts that never counts too little."""

from __future__ import annotations

from collections import deque


class SlidingWindow:
    """The sum of what was added in the last `span_s` seconds, and of at most one bucket more.

    For each moment t, `total(t)` is at least the true sum over [t - span_s, t]: a caller that adds only while the
    total stays within a limit never exceeds the limit in any window. All operations are O(1) amortised; there are
    at most `span_s / bucket_s + 1` buckets. `now` must not go backwards (`time.monotonic`).

    Args:
        span_s: the length of the window.
        bucket_s: amounts are kept per bucket, which leaves when its last moment is out of the window.
    """

    __slots__ = ("_bucket_s", "_buckets", "_span_s", "_total")

    def __init__(self, span_s: float = 60.0, bucket_s: float = 1.0) -> None:
        self._span_s = span_s
        self._bucket_s = bucket_s
        self._buckets: deque[tuple[int, int]] = deque()  # (index, amount), oldest first
        self._total = 0

    def add(self, now: float, amount: int) -> None:
        """Count `amount` at `now`; nothing is counted below 1."""
        if amount <= 0:
            return
        index = int(now // self._bucket_s)
        if self._buckets and self._buckets[-1][0] == index:
            amount_before = self._buckets.pop()[1]
            self._buckets.append((index, amount_before + amount))
        else:
            self.total(now)  # drops old buckets, so that a window that is only added to stays small
            self._buckets.append((index, amount))
        self._total += amount

    def total(self, now: float) -> int:
        """The sum that counts at `now`."""
        while self._buckets and self._leaves_at(self._buckets[0][0]) <= now:
            self._total -= self._buckets.popleft()[1]
        return self._total

    def wait_s(self, now: float, amount: int) -> float:
        """Seconds until `amount` of the present total has left; until all has left if there is less."""
        remaining = amount
        wait_s = 0.0
        self.total(now)
        for index, counted in self._buckets:
            if remaining <= 0:
                break
            remaining -= counted
            wait_s = self._leaves_at(index) - now
        return wait_s

    def reset_s(self, now: float) -> float:
        """Seconds until the window is empty."""
        if not self.total(now):
            return 0.0
        return self._leaves_at(self._buckets[-1][0]) - now

    def _leaves_at(self, index: int) -> float:
        return (index + 1) * self._bucket_s + self._span_s
