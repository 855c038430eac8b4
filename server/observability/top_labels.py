"""Which label sets get series of their own: the busiest, up to a limit; all others share one.

Ten thousand adapters must not create ten thousand series. A label set that is displaced loses its series, and counts
from zero when it returns: Prometheus sees a counter reset, which `rate` and `increase` handle. Its old count is not
added to the shared series, where it would look like a burst.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

#: How often the busiest label sets are chosen again.
REVIEW_INTERVAL_S = 60.0
#: A newcomer needs this many times the traffic of the one it displaces, so that two similar ones do not alternate.
_LEAD = 2.0
#: Label sets without series whose traffic is remembered, per label set with series.
_REMEMBERED = 8


class TopLabels(Generic[K]):
    """At most `limit` keys are chosen at any time.

    Args:
        limit: the most keys with series of their own.
        dropped: called with a key that loses its series.
        clock: monotonic seconds.
    """

    def __init__(
        self, limit: int, dropped: Callable[[K], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._dropped = dropped
        self._clock = clock
        self._chosen: dict[K, float] = {}  # key -> traffic, halved at each review
        self._others: dict[K, float] = {}
        self._reviewed_at = clock()

    def count(self, key: K) -> bool:
        """Count one request of `key`; returns whether the key has series of its own."""
        if key in self._chosen:
            self._chosen[key] += 1
            chosen = True
        elif len(self._chosen) < self._limit:
            self._chosen[key] = 1
            chosen = True
        else:
            self._others[key] = self._others.get(key, 0) + 1
            chosen = False
            if len(self._others) > _REMEMBERED * self._limit:
                self._forget_rare()
        if self._clock() - self._reviewed_at >= REVIEW_INTERVAL_S:
            self._review()
            chosen = key in self._chosen
        return chosen

    def _forget_rare(self) -> None:
        """Keep the busier half of the others."""
        busiest = sorted(self._others, key=self._others.__getitem__, reverse=True)
        self._others = {key: self._others[key] for key in busiest[: _REMEMBERED * self._limit // 2]}

    def _review(self) -> None:
        self._reviewed_at = self._clock()
        newcomers = sorted(self._others, key=self._others.__getitem__, reverse=True)[: self._limit]
        idlest = sorted(self._chosen, key=self._chosen.__getitem__)
        for new, old in zip(newcomers, idlest, strict=False):
            if self._others[new] < _LEAD * max(self._chosen[old], 1.0):
                break
            self._chosen[new] = self._others.pop(new)
            del self._chosen[old]
            self._dropped(old)
        self._chosen = {key: traffic / 2 for key, traffic in self._chosen.items()}
        self._others = {key: traffic / 2 for key, traffic in self._others.items() if traffic >= 1}
