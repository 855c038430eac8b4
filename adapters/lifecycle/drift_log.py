"""Drift of the engine from the table of slots: the last one of each version, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from adapters.residency import Drift

_DRIFTS_MAX = 1000


class DriftKind(StrEnum):
    """How the engine differed from the table of slots."""

    ORPHAN = "orphan"  # it had an adapter without a slot
    MISSING = "missing"  # it had lost an adapter with a slot
    STUCK = "stuck"  # it had not confirmed an unload


@dataclass(frozen=True, slots=True)
class DriftRecord:
    """The last drift of a version; it was repaired at that time."""

    kind: DriftKind
    at: datetime


class DriftLog:
    """The drift that reconciliations have found; bounded in size."""

    def __init__(self) -> None:
        self.reconciled_at: datetime | None = None
        self._drifts: dict[int, DriftRecord] = {}  # by engine id, oldest first

    def note(self, drift: Drift) -> None:
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

    def last_of(self, engine_id: int) -> DriftRecord | None:
        """The last drift of a version; None if it had none since the start."""
        return self._drifts.get(engine_id)
