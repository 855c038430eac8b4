"""Loads, swaps and statements are timed where they happen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from adapters.errors import LoadFailed
from adapters.models import SYSTEM, EngineAdapter, Tenant
from adapters.registry import Registry, connect, migrate
from server.observability.instrumented import InstrumentedLoader, time_queries
from server.observability.metrics import histogram


class Loader:
    """Refuses adapter 2."""

    async def load(self, adapter: EngineAdapter) -> None:
        if adapter.engine_id == 2:
            raise LoadFailed("no")

    async def unload(self, engine_id: int) -> None:
        self.gone = engine_id

    async def loaded(self) -> frozenset[int]:
        return frozenset({1})

    async def probe(self, adapter: EngineAdapter) -> None:
        self.probed = adapter


def count(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(f"loragate_{name}_count", labels) or 0.0


async def test_loads_that_succeed_are_timed_and_the_rest_passes_through() -> None:
    registry, loader = CollectorRegistry(), Loader()
    timed = InstrumentedLoader(loader, histogram("adapter_load_seconds", registry))
    adapter = EngineAdapter(1, "acme/support@1#x", Path("/x"))
    await timed.load(adapter)
    with pytest.raises(LoadFailed):
        await timed.load(EngineAdapter(2, "acme/support@2#x", Path("/x")))
    assert count(registry, "adapter_load_seconds") == 1
    await timed.unload(7)
    await timed.probe(adapter)
    assert loader.gone == 7 and loader.probed == adapter and await timed.loaded() == {1}


@asynccontextmanager
async def database(tmp_path: Path) -> AsyncIterator[sa.ext.asyncio.AsyncEngine]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'x.db'}"
    await migrate(url)
    engine = connect(url)
    try:
        yield engine
    finally:
        await engine.dispose()


async def test_statements_are_timed_by_what_they_do(tmp_path: Path) -> None:
    metrics = CollectorRegistry()
    async with database(tmp_path) as engine:
        time_queries(engine, histogram("registry_query_seconds", metrics))
        registry = Registry(engine)
        await registry.tenants.add(Tenant("acme"), by=SYSTEM)
        before = count(metrics, "registry_query_seconds", operation="select")
        await registry.tenants.get("acme")
        assert count(metrics, "registry_query_seconds", operation="select") == before + 1
        with pytest.raises(sa.exc.OperationalError):
            async with engine.connect() as connection:
                await connection.execute(sa.text("select * from nowhere"))
    assert count(metrics, "registry_query_seconds", operation="insert") == 2  # the tenant and its audit row
    assert count(metrics, "registry_query_seconds", operation="update") == 1  # the revision
    assert count(metrics, "registry_query_seconds", operation="select") == before + 1, "it failed"
