"""Which version answered which request, for feedback that reaches another server than the request did."""

from __future__ import annotations

from typing import Protocol

from adapters.errors import RegistryUnavailable
from adapters.models import Version
from adapters.registry.replicas.answers import AnswerRecord
from server.usage.recent_requests import RecentAnswers, answer_ids

FLUSH_INTERVAL_S = 1.0
#: While the database is away, the oldest beyond these are dropped; each server still knows its own.
MAX_PENDING = 20_000


class AnswerStore(Protocol):
    """The answers of all servers (`adapters.registry.replicas.answers`)."""

    async def add(self, records: list[AnswerRecord]) -> None:
        """Remember answers. Raises: RegistryUnavailable."""

    async def find(self, caller: str, request_ids: tuple[str, ...]) -> AnswerRecord | None:
        """The newest answer to one of these ids. Raises: RegistryUnavailable."""


class SharedAnswers:
    """The answers of this process first, then those of all servers.

    Args:
        recent: those of this process.
        store: those of all servers; None where there are no others.
    """

    def __init__(self, recent: RecentAnswers, store: AnswerStore | None) -> None:
        self._recent = recent
        self._store = store
        self._pending: list[AnswerRecord] = []

    def note(self, tenant: str, request_id: str, version: Version | None) -> None:
        """Remember one answered request."""
        self._recent.note(tenant, request_id, version)
        if self._store is not None:
            self._pending.append(AnswerRecord(tenant, request_id, version))
            del self._pending[:-MAX_PENDING]

    async def find(self, tenant: str, wanted: str) -> tuple[str, Version | None] | None:
        """(request id, version) of one of the tenant's own requests, by its id or by its answer's `id`.

        Raises: RegistryUnavailable: this server has not answered it, and the others cannot be asked.
        """
        found = self._recent.find(tenant, wanted)
        if found is not None or self._store is None:
            return found
        record = await self._store.find(tenant, answer_ids(wanted))
        return None if record is None else (record.request_id, record.version)

    async def flush(self) -> None:
        """Write what is new. Raises: RegistryUnavailable: it is written with the next call."""
        if self._store is None or not self._pending:
            return
        records, self._pending = self._pending, []
        try:
            await self._store.add(records)
        except RegistryUnavailable:
            self._pending = records + self._pending
            raise
