"""Wrong keys of all servers are counted together, are forgiven with time, and outlive a restart."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from adapters.registry import Registry
from adapters.registry.replicas.wrong_keys import FORGIVEN_AFTER_S, MAX_FAILURES
from adapters.registry.schema import replica_tables
from tests.unit.adapters.lifecycle.support import another

TABLE = replica_tables.wrong_keys


async def pass_time(registry: Registry, seconds: float) -> None:
    async with registry.wrong_keys._database.write() as connection:
        await connection.execute(sa.update(TABLE).values(failed_at_s=TABLE.c.failed_at_s - seconds))


async def test_counts_of_all_servers_add_up_and_are_forgiven(registry: Registry) -> None:
    first, second = another(registry), another(registry)
    assert await first.wrong_keys.report({}) == {}
    (found,) = (await first.wrong_keys.report({"192.0.2.1": 5})).values()
    assert found.failures == 5 and found.servers == 1
    found = (await second.wrong_keys.report({"192.0.2.1": 4, "192.0.2.2": 1}))["192.0.2.1"]
    assert found.failures == pytest.approx(9, abs=0.2) and found.servers == 2
    await pass_time(registry, 4 * FORGIVEN_AFTER_S)
    found = (await second.wrong_keys.report({"192.0.2.1": 1}))["192.0.2.1"]
    assert found.failures == pytest.approx(6, abs=0.2)
    await pass_time(registry, 15)
    assert (await first.wrong_keys.report({"192.0.2.1": 1}))["192.0.2.1"].servers >= 1


async def test_what_is_forgiven_is_deleted_and_the_rest_is_read_after_a_restart(registry: Registry) -> None:
    await registry.wrong_keys.report({"192.0.2.1": 2})
    await pass_time(registry, 1)
    await registry.wrong_keys.report({"192.0.2.2": 30, "192.0.2.3": 4})
    restarted = another(registry)
    assert [*(await restarted.wrong_keys.recent(2))] != [] and len(await restarted.wrong_keys.recent(9)) == 3
    await pass_time(registry, 5 * FORGIVEN_AFTER_S)
    left = await restarted.wrong_keys.recent(9)
    assert left.keys() == {"192.0.2.2"} and left["192.0.2.2"].failures == pytest.approx(25, abs=0.2)
    await restarted.wrong_keys.forget()
    async with registry.wrong_keys._database.read() as connection:
        assert (await connection.execute(sa.select(TABLE.c.address))).scalars().all() == ["192.0.2.2"]


async def test_many_servers_report_the_same_addresses_at_once(registry: Registry) -> None:
    addresses = [f"192.0.2.{number}" for number in range(50)]
    servers = [another(registry) for _ in range(4)]
    await asyncio.gather(
        *(
            server.wrong_keys.report(dict.fromkeys(addresses[:: 1 if number % 2 else -1], 10))
            for number, server in enumerate(servers)
        )
    )
    found = await servers[0].wrong_keys.recent(99)
    assert len(found) == 50
    assert all(each.failures == pytest.approx(40, abs=1) and each.servers == 4 for each in found.values())


async def test_a_count_is_bounded(registry: Registry) -> None:
    for _ in range(2):
        (found,) = (await registry.wrong_keys.report({"192.0.2.1": 10**9})).values()
        assert found.failures == MAX_FAILURES
