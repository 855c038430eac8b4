"""Failed requests of other servers: listed without this server's own, and only the newest are kept."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from adapters.registry import Registry
from adapters.registry.database import utc_now
from adapters.registry.replicas.failures import Cause, Failure
from adapters.registry.schema import replica_tables
from tests.unit.adapters.lifecycle.support import another


def failure(request_id: str, tenant: str = "acme", model: str = "m") -> Failure:
    at = utc_now().replace(microsecond=0)
    return Failure(at, request_id, tenant, "lg_1", "/v1/models", model, 400, "bad", Cause.CALLER)


async def test_a_server_lists_what_others_wrote(registry: Registry) -> None:
    first, second = another(registry), another(registry)
    own, theirs, foreign = failure("own"), failure("theirs"), failure("foreign", "globex")
    await first.failures.add([own])
    await second.failures.add([theirs, foreign])
    await second.failures.add([])
    assert await first.failures.of_others("acme", 9) == (theirs,)
    assert await first.failures.of_others(None, 9) == (foreign, theirs)
    assert await first.failures.of_others(None, 1) == (foreign,)


async def test_what_a_caller_chose_never_breaks_the_write(registry: Registry) -> None:
    wild = failure("a\0b\ud800c" * 100, model="\0" + "x" * 999)
    await registry.failures.add([wild])
    (found,) = await another(registry).failures.of_others("acme", 9)
    assert found.request_id.startswith("ab?cab?c") and len(found.request_id) == 128
    assert found.model == "x" * 256


async def test_the_newest_of_each_tenant_are_kept_for_a_day(registry: Registry) -> None:
    await registry.failures.add([failure(f"a{number}") for number in range(5)])
    await registry.failures.add([failure("g", "globex"), failure("old", "globex")])
    table = replica_tables.failures
    async with registry.failures._database.write() as connection:
        old = sa.update(table).where(table.c.request_id == "old").values(at=utc_now() - timedelta(days=2))
        await connection.execute(old)
    await registry.failures.trim(3)
    left = await another(registry).failures.of_others(None, 9)
    assert [each.request_id for each in left] == ["g", "a4", "a3", "a2"]
