"""What is true of this process alone about versions: how far a fetch is, what drifted, what it found damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from adapters.models import Version
from adapters.residency import Drift, SlotView
from adapters.sources import Progress

_DRIFTS_MAX = 1000


class DriftKind(StrEnum):
    """How the engine differed from what was thought of it."""

    ORPHAN = "orphan"  # it held what it should not have
    MISSING = "missing"  # it had lost what it should have held
    STUCK = "stuck"  # it had not confirmed an unload


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far a fetch is; the total is None where the source does not tell."""

    fetched_bytes: int
    total_bytes: int | None


@dataclass(frozen=True, slots=True)
class DriftRecord:
    """The last time that a version was not in the engine as it should be. It was mended then."""

    kind: DriftKind
    at: datetime


@dataclass(frozen=True, slots=True)
class Condition:
    """A version in this process, beside what the registry says of it."""

    slot: SlotView | None  # None: not in the engine
    fetching: FetchProgress | None  # None: not being fetched
    drifted: DriftRecord | None  # None: not since the start
    damaged: bool  # its stored copy is missing or differs from its digest


class ProcessHealth:
    """Fetches that run and drift that was found; bounded."""

    def __init__(self) -> None:
        self.reconciled_at: datetime | None = None
        self._fetches: dict[tuple[str, str, int], FetchProgress] = {}
        self._drifts: dict[int, DriftRecord] = {}  # by engine id, oldest first

    @contextmanager
    def fetching(self, version: Version, progress: Progress | None) -> Iterator[Progress]:
        """What to tell the fetch's progress to, from any thread; it is forgotten with the block."""
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
        """How many versions of a tenant are being fetched."""
        return sum(owner == tenant for owner, _, _ in self._fetches)

    def fetch_of(self, version: Version) -> FetchProgress | None:
        """How far a version's fetch is."""
        return self._fetches.get((version.tenant, version.adapter, version.number))

    def note_drift(self, drift: Drift) -> None:
        """Take note of one comparison with the engine."""
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

    def drift_of(self, version: Version) -> DriftRecord | None:
        """When a version last drifted."""
        return self._drifts.get(version.engine_id)
