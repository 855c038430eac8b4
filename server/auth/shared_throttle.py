"""Tells the registry about wrong keys, so that all servers delay an address together and a restart forgets none.

Once a second, the addresses that sent several wrong keys to this server are written with one statement, and the
answer has the wrong keys that all servers got from them. So many wrong keys cost no more than a few.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from adapters.errors import RegistryUnavailable
from adapters.registry.replicas.wrong_keys import AddressFailures
from server.auth.throttle import MAX_ADDRESSES, AuthThrottle

REPORT_INTERVAL_S = 1.0
#: The most addresses of one report, those with the most wrong keys first; the others wait for the next.
MAX_REPORTED = 256
#: What is forgiven is deleted after so many reports.
_FORGET_EVERY = 30


class WrongKeyStore(Protocol):
    """The wrong keys of all servers (`adapters.registry.replicas.wrong_keys`)."""

    async def report(self, counts: Mapping[str, int]) -> dict[str, AddressFailures]:
        """Add counts by address; returns those of all servers. Raises: RegistryUnavailable."""

    async def recent(self, limit: int) -> dict[str, AddressFailures]:
        """What is not forgiven yet. Raises: RegistryUnavailable."""

    async def forget(self) -> None:
        """Delete what is forgiven. Raises: RegistryUnavailable."""


class SharedThrottle:
    """Connects this server's throttle with the others'."""

    def __init__(self, throttle: AuthThrottle, store: WrongKeyStore) -> None:
        self._throttle = throttle
        self._store = store
        self._reports = 0

    async def restore(self) -> None:
        """At the start: learn what is not forgiven yet. Raises: RegistryUnavailable."""
        await self._store.forget()
        self._throttle.learn(await self._store.recent(MAX_ADDRESSES))

    async def report(self) -> None:
        """Tell what is new, and learn what the others got. Raises: RegistryUnavailable: it is told later."""
        counts = self._throttle.take_unreported(MAX_REPORTED)
        if not counts:
            return
        try:
            found = await self._store.report(counts)
        except RegistryUnavailable:
            self._throttle.put_back(counts)
            raise
        self._throttle.learn(found)
        self._reports += 1
        if self._reports % _FORGET_EVERY == 0:
            await self._store.forget()
