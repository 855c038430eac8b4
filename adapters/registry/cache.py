"""A cache of registry look-ups that is at most half a second behind a change."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: A revoked key works at most this long after its revocation.
MAX_STALENESS_S = 0.5
#: Above this all entries are dropped, because callers can send any number of unknown names.
MAX_ENTRIES = 20_000


class RegistryCache(Generic[K, V]):
    """Caches look-ups until the registry's revision changes.

    Reading the revision costs one indexed query, at most every MAX_STALENESS_S. A change by this process
    (`own_changes` grew) is seen at once.
    """

    def __init__(
        self,
        read_revision: Callable[[], Awaitable[int]],
        look_up: Callable[[K], Awaitable[V]],
        own_changes: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_revision = read_revision
        self._look_up = look_up
        self._own_changes = own_changes
        self._clock = clock
        self._changes_seen = 0
        self._revision = -1
        self._checked_at = float("-inf")
        self._entries: dict[K, V] = {}

    async def get(self, key: K) -> V:
        """The result of the look-up; its exceptions are not cached."""
        stale = self._clock() - self._checked_at >= MAX_STALENESS_S
        if stale or self._own_changes() != self._changes_seen:
            await self._refresh()
        if key in self._entries:
            return self._entries[key]
        revision = self._revision
        value = await self._look_up(key)
        if revision == self._revision:  # else the value may be older than the change
            self._entries[key] = value
        return value

    async def _refresh(self) -> None:
        asked_at, changes = self._clock(), self._own_changes()
        revision = await self._read_revision()
        if revision != self._revision or len(self._entries) > MAX_ENTRIES:
            self._entries.clear()
        self._revision = revision
        self._checked_at = asked_at
        self._changes_seen = changes
