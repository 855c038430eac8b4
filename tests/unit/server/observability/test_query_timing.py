"""Database statements are timed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from adapters.models import SYSTEM, Tenant
from adapters.registry import Registry, connect, migrate
from server.observability.metrics import histogram
from server.observability.query_timing import time_queries


def count(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(f"loragate_{name}_count", labels) or 0.0


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
