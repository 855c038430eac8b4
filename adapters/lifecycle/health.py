"""What only this process knows of versions: progress of fetches, drift of the engine, damaged copies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from adapters.errors import TooManyFetches
from adapters.models import Version
from adapters.residency import Drift, SlotView
from adapters.sources import Progress

MAX_FETCHES = 4  # concurrent fetches of one tenant: each takes a thread and disk space
_DRIFTS_MAX = 1000


class DriftKind(StrEnum):
    """How the engine differed from the table of slots."""

    ORPHAN = "orphan"  # it had an adapter without a slot
    MISSING = "missing"  # it had lost an adapter with a slot
    STUCK = "stuck"  # it had not confirmed an unload


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """Progress of a fetch; the total is None where the source does not say it."""

    fetched_bytes: int
    total_bytes: int | None


@dataclass(frozen=True, slots=True)
class DriftRecord:
    """The last drift of a version; it was repaired at that time."""

    kind: DriftKind
    at: datetime


@dataclass(frozen=True, slots=True)
class Condition:
    """What only this process knows of a version."""

    slot: SlotView | None  # None: not in the engine
    fetching: FetchProgress | None  # None: not being fetched
    drifted: DriftRecord | None  # None: no drift since the start
    damaged: bool  # its stored copy is missing or differs from its digest


class ProcessHealth:
    """Running fetches and found drift; bounded in size."""

    def __init__(self) -> None:
        self.reconciled_at: datetime | None = None
        self._fetches: dict[tuple[str, str, int], FetchProgress] = {}
        self._drifts: dict[int, DriftRecord] = {}  # by engine id, oldest first

    @contextmanager
    def fetching(self, version: Version, progress: Progress | None) -> Iterator[Progress]:
        """A progress callback for a fetch, callable from any thread; the progress is dropped with the block."""
        key = (version.tenant, version.adapter, version.number)

        def note(fetched_bytes: int, total_bytes: int | None) -> None:
            self._fetches[key] = FetchProgress(fetched_bytes, total_bytes)
            if progress is not None:
                progress(fetched_bytes, total_bytes)

        self._fetches[key] = FetchProgress(0, None)
        try:
            yield note
        finally:
            del self._fetches[key]

    def fetches_of(self, tenant: str) -> int:
        """Number of a tenant's versions that are being fetched."""
        return sum(owner == tenant for owner, _, _ in self._fetches)

    def check_fetches(self, tenant: str) -> None:
        """Raises: TooManyFetches: MAX_FETCHES of the tenant's versions are being fetched."""
        if self.fetches_of(tenant) >= MAX_FETCHES:
            raise TooManyFetches(tenant, MAX_FETCHES)

    def note_drift(self, drift: Drift) -> None:
        """Record the result of one reconciliation."""
        self.reconciled_at = datetime.now(UTC)
        kinds = (
            (DriftKind.ORPHAN, drift.orphans),
            (DriftKind.MISSING, drift.missing),
            (DriftKind.STUCK, drift.stuck),
        )
        for kind, ids in kinds:
            for engine_id in ids:
                self._drifts.pop(engine_id, None)
                self._drifts[engine_id] = DriftRecord(kind, self.reconciled_at)
        while len(self._drifts) > _DRIFTS_MAX:
            del self._drifts[next(iter(self._drifts))]

    def condition(self, version: Version, slot: SlotView | None, *, damaged: bool) -> Condition:
        """The condition of a version with this slot."""
        fetching = self._fetches.get((version.tenant, version.adapter, version.number))
        return Condition(slot, fetching, self._drifts.get(version.engine_id), damaged)
