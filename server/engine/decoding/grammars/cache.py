"""A cache shared between owners by bytes: who fills it loses what is his own.

Every key belongs to one owner (a tenant). When the cache is full, it drops the entry that the owner with the most
bytes has not used for the longest time, so that one tenant's many grammars cannot drop another's few.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class OwnedCache(Generic[Value]):
    """Least recently used, per owner; not thread-safe."""

    def __init__(self, max_bytes: int, on_drop: Callable[[Value], None] = lambda value: None) -> None:
        """
        Args:
            max_bytes: of all values together; values in use may exceed it.
            on_drop: called with each value that is dropped.
        """
        self._max_bytes = max_bytes
        self._on_drop = on_drop
        self._entries: dict[str, OrderedDict[str, tuple[Value, int]]] = {}
        self._used: dict[str, int] = {}  # bytes per owner
        self._pinned: dict[tuple[str, str], int] = {}

    @property
    def bytes(self) -> int:
        """The bytes of all values."""
        return sum(self._used.values())

    def get(self, owner: str, key: str) -> Value | None:
        """A value, which counts as used now; None without one."""
        entries = self._entries.get(owner)
        if entries is None or key not in entries:
            return None
        entries.move_to_end(key)
        return entries[key][0]

    def put(self, owner: str, key: str, value: Value, size_bytes: int) -> None:
        """Keep a value, if it is not there yet, and drop others where the cache is full."""
        entries = self._entries.setdefault(owner, OrderedDict())
        if key not in entries:
            entries[key] = (value, size_bytes)
            self._used[owner] = self._used.get(owner, 0) + size_bytes
        self._shrink()

    def pin(self, owner: str, key: str) -> None:
        """Keep the value until as many calls of `unpin`."""
        self._pinned[owner, key] = self._pinned.get((owner, key), 0) + 1

    def unpin(self, owner: str, key: str) -> None:
        """The opposite of `pin`."""
        self._pinned[owner, key] -= 1
        if not self._pinned[owner, key]:
            del self._pinned[owner, key]
            self._shrink()

    def _shrink(self) -> None:
        while self.bytes > self._max_bytes:
            for owner in sorted(self._used, key=lambda name: -self._used[name]):
                key = next((key for key in self._entries[owner] if (owner, key) not in self._pinned), None)
                if key is not None:
                    self._drop(owner, key)
                    break
            else:
                return  # all of them are in use

    def _drop(self, owner: str, key: str) -> None:
        value, size_bytes = self._entries[owner].pop(key)
        self._used[owner] -= size_bytes
        if not self._entries[owner]:
            del self._entries[owner], self._used[owner]
        self._on_drop(value)
