from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from adapters.models import Usage
from adapters.registry import Registry
from adapters.registry.billing.spending import Spent

NOON = datetime(2026, 3, 1, 12, 40, tzinfo=UTC)


def used(tenant: str = "acme", hour: datetime = NOON, **sums: float) -> Usage:
    return Usage(tenant, "support", 1, hour, **sums)


async def test_batches_add_up_per_hour(registry: Registry) -> None:
    await registry.usage.add([])
    batch = [used(requests=1, prompt_tokens=10, queue_s=0.5), used(requests=1, generated_tokens=7)]
    batch.append(used("globex", requests=1, prompt_tokens=1))
    batch.append(used(hour=NOON + timedelta(hours=1), requests=1, prompt_tokens=2))
    await registry.usage.add(batch)
    await registry.usage.add([used(requests=2, prompt_tokens=5, kv_block_seconds=1.5)])
    acme = await registry.usage.list(since=NOON, tenant="acme")
    assert acme[0] == Usage(
        "acme",
        "support",
        1,
        NOON.replace(minute=0),
        requests=4,
        prompt_tokens=15,
        generated_tokens=7,
        kv_block_seconds=1.5,
        queue_s=0.5,
    )
    assert [entry.hour.hour for entry in acme] == [12, 13]
    assert len(await registry.usage.list(since=NOON, until=NOON + timedelta(minutes=20))) == 2
    assert await registry.spending.of_tenants(NOON) == {"acme": Spent(24), "globex": Spent(1)}
    assert await registry.spending.of_tenants(NOON + timedelta(hours=2)) == {}


async def test_writers_at_once_lose_nothing(registry: Registry) -> None:
    await asyncio.gather(*(registry.usage.add([used(requests=1, prompt_tokens=3)]) for _ in range(30)))
    assert await registry.spending.of_tenants(NOON) == {"acme": Spent(90)}
