"""A cache of registry look-ups that is at most half a second behind a change, and lasts for a grace in an outage."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from adapters.errors import AdapterError, RegistryUnavailable
from adapters.registry.outages.availability import Availability, wait_within

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: Above this the oldest entries are dropped.
MAX_ENTRIES = 20_000
#: A request waits at most this long for a look-up; then it is answered as in an outage.
LOOK_UP_TIMEOUT_S = 3.0

_NOT_CHECKED = (
    "The registry's database does not answer, and this key or model was not in use a moment ago, so it cannot be "
    "checked; try again shortly."
)


class RegistryCache(Generic[K, V]):
    """Caches look-ups until the registry's revision changes.

    While the database does not answer, entries are used for the grace (`Availability`), counted from the last time
    that they were known to be right. After a change by this process (`own_changes` grew) the entries of before are
    not used any more. Failed look-ups are not cached.

    Args:
        availability: the registry's state.
        look_up: reads one entry; its exceptions reach the caller.
        own_changes: number of changes made by this process that concern these entries.
    """

    def __init__(
        self,
        availability: Availability,
        look_up: Callable[[K], Coroutine[Any, Any, V]],
        own_changes: Callable[[], int] = lambda: 0,
    ) -> None:
        self._availability = availability
        self._look_up = look_up
        self._own_changes = own_changes
        self._changes_seen = 0
        self._entries: dict[K, tuple[V, int]] = {}  # with the state that they were read at; oldest first

    async def get(self, key: K) -> V:
        """The result of the look-up.

        Raises: RegistryUnavailable: the database is away, and the key has no entry or the grace is over.
        """
        state = await self._availability.state()
        changes = self._own_changes()
        if changes != self._changes_seen:
            self._entries.clear()
            self._changes_seen = changes
        entry = self._entries.get(key)
        if entry is not None and entry[1] == state:
            return entry[0]
        try:
            value = await wait_within(LOOK_UP_TIMEOUT_S, self._look_up(key))
        except RegistryUnavailable as error:
            entry = self._entries.get(key)
            if entry is None or not self._availability.in_grace(entry[1]):
                raise RegistryUnavailable(_NOT_CHECKED) from error
            return entry[0]
        except AdapterError:
            self._entries.pop(key, None)  # the database has answered: there is no such entry any more
            raise
        if changes == self._own_changes():  # else the value may be older than the change
            self._store(key, value, state)
        return value

    def _store(self, key: K, value: V, state: int) -> None:
        # NOTE: the state was read before the value. If a change came in between, the entry is looked up once more.
        self._entries.pop(key, None)
        self._entries[key] = (value, state)
        if len(self._entries) > MAX_ENTRIES:
            del self._entries[next(iter(self._entries))]
