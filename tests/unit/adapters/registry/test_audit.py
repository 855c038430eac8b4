from __future__ import annotations

import asyncio

from adapters.models import SYSTEM
from adapters.registry import Registry
from adapters.registry.database import finish_change_transaction


async def test_revisions_become_visible_in_their_order(postgres_registry: Registry) -> None:
    """NOTE: ids from a sequence do not: one given first may be committed last."""
    database = postgres_registry._database
    before = await postgres_registry.audit.revision()

    async def second() -> None:
        async with database.change(SYSTEM, "second", "x"):
            pass

    async with database.write() as connection:
        await finish_change_transaction(connection, SYSTEM, "first", "x", None)
        waiting = asyncio.create_task(second())
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done and await postgres_registry.audit.revision() == before
    await waiting
    assert await postgres_registry.audit.revision() == before + 2
