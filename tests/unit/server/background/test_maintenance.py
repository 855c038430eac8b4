"""Maintenance runs while the engine serves, also after a failure."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.errors import EngineGone
from adapters.residency import Drift
from server.background import maintenance as module
from server.background.maintenance import MaintenanceLoop


class Keeper:
    """Fails at its first comparison and its first check."""

    def __init__(self) -> None:
        self.reconciled = self.checked = 0

    async def reconcile(self) -> Drift:
        self.reconciled += 1
        if self.reconciled == 1:
            raise EngineGone("for a moment")
        return Drift(orphans=(7,))

    async def check_store(self) -> tuple[Any, ...]:
        self.checked += 1
        if self.checked == 1:
            raise OSError("for a moment")
        return (SimpleNamespace(public_name="acme-x", number=3),)


async def test_it_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "RECONCILE_INTERVAL_S", 0.001)
    keeper, serving = Keeper(), False
    maintenance = MaintenanceLoop(keeper, lambda: serving)  # type: ignore[arg-type]
    keeping = asyncio.create_task(maintenance.run())
    await asyncio.sleep(0.02)
    assert (keeper.reconciled, keeper.checked) == (0, 0), "there is no engine to compare with"
    serving = True
    async with asyncio.timeout(5):
        while keeper.reconciled < 5 or keeper.checked < 2:
            await asyncio.sleep(0.001)
    assert keeper.checked == 2, "once is enough, when it succeeds"
    assert "The stored copy of acme-x@3 is missing or damaged" in caplog.text
    assert "orphans=(7,)" in caplog.text
    keeping.cancel()
