"""Timers of adapter loads, swaps and database statements."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from prometheus_client import Histogram
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.lifecycle import Lifecycle
from adapters.models import Actor, Alias, AliasTarget, EngineAdapter
from adapters.residency import Loader

#: First words of the statements that are timed; transactions and pragmas are not queries.
_OPERATIONS = ("select", "insert", "update", "delete")


class InstrumentedLoader:
    """A `Loader` whose successful loads are timed."""

    def __init__(self, loader: Loader, seconds: Histogram) -> None:
        self._loader = loader
        self._seconds = seconds

    async def load(self, adapter: EngineAdapter) -> None:
        """See `Loader.load`."""
        began = time.perf_counter()
        await self._loader.load(adapter)
        self._seconds.observe(time.perf_counter() - began)

    async def unload(self, engine_id: int) -> None:
        """See `Loader.unload`."""
        await self._loader.unload(engine_id)

    async def loaded(self) -> frozenset[int]:
        """See `Loader.loaded`."""
        return await self._loader.loaded()

    async def probe(self, adapter: EngineAdapter) -> None:
        """See `Loader.probe`."""
        await self._loader.probe(adapter)


class InstrumentedLifecycle(Lifecycle):
    """A `Lifecycle` whose swaps are timed; promotions and rollbacks are splits too."""

    def __init__(self, *parts: Any, swap_s: Histogram) -> None:
        super().__init__(*parts)
        self._swap_s = swap_s

    async def split(
        self,
        tenant: str,
        adapter: str,
        targets: Sequence[AliasTarget],
        *,
        by: Actor,
        expected_generation: int | None = None,
        restored: int | None = None,
    ) -> Alias:
        """See `Lifecycle.split`."""
        began = time.perf_counter()
        alias = await super().split(
            tenant, adapter, targets, by=by, expected_generation=expected_generation, restored=restored
        )
        self._swap_s.observe(time.perf_counter() - began)
        return alias


def time_queries(database: AsyncEngine, seconds: Histogram) -> None:
    """Observe every statement on `database`, including the wait for the driver."""
    timed = {name: seconds.labels(name) for name in _OPERATIONS}

    def before(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        connection.info["loragate_began"] = time.perf_counter()

    def after(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        child = timed.get(statement.lstrip()[:6].lower())
        if child is not None:
            child.observe(time.perf_counter() - connection.info["loragate_began"])

    sa.event.listen(database.sync_engine, "before_cursor_execute", before)
    sa.event.listen(database.sync_engine, "after_cursor_execute", after)
