"""Reconciles the table of slots with the engine's own list of adapters."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from adapters.models import EngineAdapter
from adapters.residency.loader import Loader
from adapters.residency.slots import Drift, Phase
from adapters.residency.transfers import Transfers


async def reconcile(transfers: Transfers, loader: Loader, pins: Container[int]) -> Drift:
    """Unload unknown adapters, reload missing ones that are held or pinned, and drop the other missing ones.

    Slots that change while the engine is asked are left alone: their own load or unload decides.
    Raises: EngineGone.
    """
    before = dict(transfers.slots)
    resident = {engine_id: slot.loaded for engine_id, slot in before.items() if slot.phase is Phase.RESIDENT}
    engine_has = await loader.loaded()
    orphans = sorted(engine_has - before.keys() - transfers.slots.keys())
    for engine_id in orphans:
        transfers.unload_unknown(EngineAdapter(engine_id, f"unknown adapter {engine_id}", Path()))
    missing, stuck = [], []
    for engine_id, slot in before.items():
        if transfers.slots.get(engine_id) is not slot:
            continue
        lost = engine_id not in engine_has
        if slot.phase is Phase.STUCK:
            stuck.append(engine_id)
            (transfers.drop if lost else transfers.unload)(slot)
        elif lost and slot.phase is Phase.RESIDENT and slot.loaded is resident.get(engine_id):
            missing.append(engine_id)
            wanted = (slot.holders or engine_id in pins) and not slot.retiring
            (transfers.load if wanted else transfers.drop)(slot)
    transfers.counts.orphans += len(orphans)
    transfers.counts.missing += len(missing)
    return Drift(tuple(orphans), tuple(missing), tuple(stuck))
