"""The condition of a version in this process: its slot, fetch, drift and stored copy."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.lifecycle.drift_log import DriftRecord
from adapters.lifecycle.fetch_progress import FetchProgress
from adapters.residency import SlotView


@dataclass(frozen=True, slots=True)
class VersionCondition:
    """What only this process knows of a version."""

    slot: SlotView | None  # None: not in the engine
    fetching: FetchProgress | None  # None: not being fetched
    drifted: DriftRecord | None  # None: no drift since the start
    damaged: bool  # its stored copy is missing or differs from its digest
