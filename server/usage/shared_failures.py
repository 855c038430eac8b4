"""The last failed requests of this server and of the others that share its registry."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from adapters.errors import RegistryUnavailable
from adapters.registry.replicas.failures import Failure
from server.request.access_log import AccessRecord
from server.usage.recent_requests import MAX_FAILURES_PER_TENANT, RecentFailures

FLUSH_INTERVAL_S = 1.0
#: The most that one call writes, together and of one tenant; a server that fails more tells of the first ones.
MAX_WRITTEN, MAX_WRITTEN_PER_TENANT = 200, 20
#: The most that a listing takes from other servers.
MAX_LISTED = 1000
#: The table is trimmed after so many writes.
_TRIM_EVERY = 30


class FailureStore(Protocol):
    """The failures of all servers (`adapters.registry.replicas.failures`)."""

    async def add(self, failures: list[Failure]) -> None:
        """Write some. Raises: RegistryUnavailable."""

    async def of_others(self, tenant: str | None, limit: int) -> tuple[Failure, ...]:
        """What other servers wrote, the newest first. Raises: RegistryUnavailable."""

    async def trim(self, most: int) -> None:
        """Delete all but the newest of each tenant. Raises: RegistryUnavailable."""


class SharedFailures:
    """Failures: of this process from memory, of the others from the registry.

    Args:
        recent: those of this process.
        store: those of all; None where there are no others.
    """

    def __init__(self, recent: RecentFailures, store: FailureStore | None) -> None:
        self._recent = recent
        self._store = store
        self._pending: list[Failure] = []
        self._written_of: Counter[str] = Counter()
        self._writes = 0

    def note(self, record: AccessRecord) -> bool:
        """Remember a request if it failed; returns whether it did."""
        failure = self._recent.note(record)
        if failure is None or self._store is None or len(self._pending) >= MAX_WRITTEN:
            return failure is not None
        if self._written_of[failure.tenant] < MAX_WRITTEN_PER_TENANT:
            self._written_of[failure.tenant] += 1
            self._pending.append(failure)
        return True

    async def list(self, tenant: str | None = None) -> list[Failure]:
        """Failures of one tenant or of all, the newest first; without the database those of this server."""
        own = self._recent.list(tenant)
        if self._store is None:
            return own
        try:
            others = await self._store.of_others(
                tenant, MAX_LISTED if tenant is None else MAX_FAILURES_PER_TENANT
            )
        except RegistryUnavailable:
            return own
        return sorted([*own, *others], key=lambda failure: failure.at, reverse=True)

    async def flush(self) -> None:
        """Write what is new. Raises: RegistryUnavailable: it is written with the next call."""
        if self._store is None or not self._pending:
            return
        failures, self._pending = self._pending, []
        try:
            await self._store.add(failures)
        except RegistryUnavailable:
            self._pending = (failures + self._pending)[:MAX_WRITTEN]
            raise
        self._written_of.clear()
        self._writes += 1
        if self._writes % _TRIM_EVERY == 0:
            await self._store.trim(MAX_FAILURES_PER_TENANT)
