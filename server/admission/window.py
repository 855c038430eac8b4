"""A sliding window over the last minute that never counts too little."""

from __future__ import annotations

from collections import deque

SPAN_S = 60
#: Amounts are kept per whole second; a bucket leaves only when its very last moment is out of the window.
BUCKET_S = 1


class SlidingWindow:
    """The sum of what was added in the last 60 s, rounded up by at most one second's worth.

    For each moment t, `total(t)` is at least the true sum over [t - 60, t]: whoever adds only while the total
    stays within a limit never exceeds it in any window. All operations are O(1) amortised; there are at most
    61 buckets. `now` must not go backwards (`time.monotonic`).
    """

    __slots__ = ("_buckets", "_total")

    def __init__(self) -> None:
        self._buckets: deque[tuple[int, int]] = deque()  # (second, amount), oldest first
        self._total = 0

    def add(self, now: float, amount: int) -> None:
        """Count `amount` (>= 0) at `now`."""
        if amount <= 0:
            return
        second = int(now // BUCKET_S)
        if self._buckets and self._buckets[-1][0] == second:
            amount_before = self._buckets.pop()[1]
            self._buckets.append((second, amount_before + amount))
        else:
            self._buckets.append((second, amount))
        self._total += amount

    def total(self, now: float) -> int:
        """What counts at `now`."""
        while self._buckets and self._leaves_at(self._buckets[0][0]) <= now:
            self._total -= self._buckets.popleft()[1]
        return self._total

    def wait_s(self, now: float, amount: int) -> float:
        """Seconds until `amount` of what counts now has left; until all has left if it holds less."""
        remaining = amount
        wait_s = 0.0
        self.total(now)
        for second, counted in self._buckets:
            if remaining <= 0:
                break
            remaining -= counted
            wait_s = self._leaves_at(second) - now
        return wait_s

    def reset_s(self, now: float) -> float:
        """Seconds until the window is empty."""
        if not self.total(now):
            return 0.0
        return self._leaves_at(self._buckets[-1][0]) - now

    @staticmethod
    def _leaves_at(second: int) -> float:
        return float((second + 1) * BUCKET_S + SPAN_S)
