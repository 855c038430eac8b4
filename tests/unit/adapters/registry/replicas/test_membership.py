"""Who lives among the servers that share a registry, and when a drained version is retired."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa
from manual_clock import ManualClock
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.models import SYSTEM, Version, VersionState
from adapters.registry import Registry
from adapters.registry.replicas import membership as module
from adapters.registry.replicas.membership import DEAD_AFTER_S, Membership, new_replica
from adapters.registry.schema import replica_tables
from tests.unit.adapters.lifecycle.support import BY, another


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


def member(registry: Registry, clock: ManualClock) -> Membership:
    return Membership(registry.membership._database, new_replica("http://a", "1"), clock)


async def silence(member: Membership, seconds: float) -> None:
    """Let the database have seen this server so long ago."""
    table = replica_tables.replicas
    seen_at = sa.func.now() - sa.text(f"interval '{seconds} seconds'")
    async with member._database.write() as connection:
        await connection.execute(sa.update(table).where(table.c.id == member.own.id).values(seen_at=seen_at))


async def beating(member: Membership, clock: ManualClock) -> None:
    """Beat for as long as it takes until the member may judge others."""
    for _ in range(int(DEAD_AFTER_S) + 1):
        await member.beat()
        clock.now_s += 1


async def test_one_server_on_sqlite_lives_alone(sqlite_registry: Registry) -> None:
    alone = sqlite_registry.membership
    await alone.beat()
    await alone.leave()
    await alone.forget()
    assert await alone.live() == (alone.own,) and alone.can_judge and not alone.is_shared
    async with alone.leading(1) as leads:
        assert leads


async def test_a_server_beats_also_where_the_database_seems_away(
    postgres_registry: Registry, clock: ManualClock
) -> None:
    first = member(postgres_registry, clock)
    first._database.known_away = lambda: True
    await first.beat()
    first._database.known_away = lambda: False
    second = member(postgres_registry, clock)
    await beating(second, clock)
    assert first.own in [type(first.own)(one.id, one.url, one.version) for one in await second.live()]


async def test_a_silent_server_is_dead(postgres_registry: Registry, clock: ManualClock) -> None:
    first, second = member(postgres_registry, clock), member(postgres_registry, clock)
    await second.beat()
    await beating(first, clock)
    assert {each.id for each in await first.live()} == {first.own.id, second.own.id}
    await silence(second, DEAD_AFTER_S - 1)
    assert len(await first.live()) == 2
    await silence(second, DEAD_AFTER_S + 1)
    assert await first.live() == (first.own,)
    await second.beat()  # it was only slow
    (other,) = [each for each in await first.live() if each.id == second.own.id]
    assert (other.url, other.version) == ("http://a", "1") and other.seen_at is not None


async def test_nobody_is_dead_after_an_outage_until_all_had_time(
    postgres_registry: Registry, clock: ManualClock
) -> None:
    first, second = member(postgres_registry, clock), member(postgres_registry, clock)
    await second.beat()
    await beating(first, clock)
    clock.now_s += 30  # the database was away
    await silence(second, 30)
    await first.beat()
    assert not first.can_judge and len(await first.live()) == 2
    await beating(first, clock)
    assert first.can_judge and await first.live() == (first.own,)


async def test_a_server_that_stops_is_gone_at_once(postgres_registry: Registry, clock: ManualClock) -> None:
    first, second = member(postgres_registry, clock), member(postgres_registry, clock)
    await second.beat()
    await second.leave()
    assert await first.live() == (first.own,)


async def test_nobody_is_dead_by_an_answer_that_came_after_an_outage(
    postgres_registry: Registry, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database stops while it is asked who lives, and answers when it goes on: nobody was seen meanwhile."""
    first, second = member(postgres_registry, clock), member(postgres_registry, clock)
    await second.beat()
    await beating(first, clock)
    await silence(second, 1)
    read = first._database.read

    @asynccontextmanager
    async def stopped() -> AsyncIterator[AsyncConnection]:
        clock.now_s += 20
        await silence(second, 21)
        async with read() as connection:
            yield connection

    monkeypatch.setattr(first._database, "read", stopped)
    assert second.own.id in {one.id for one in await first.live()}
    monkeypatch.undo()
    await beating(first, clock)
    assert second.own.id not in {one.id for one in await first.live()}


async def test_rows_of_long_dead_servers_are_deleted(postgres_registry: Registry, clock: ManualClock) -> None:
    first, second = member(postgres_registry, clock), member(postgres_registry, clock)
    for each in (first, second):
        await each.beat()
    await silence(second, module.FORGET_AFTER.total_seconds() + 1)
    await first.forget()
    async with first._database.read() as connection:
        rows = (await connection.execute(sa.select(replica_tables.replicas.c.id))).scalars().all()
    assert rows == [first.own.id]


async def test_one_server_leads_a_task_at_a_time(postgres_registry: Registry) -> None:
    first, second = postgres_registry.membership, another(postgres_registry).membership
    async with first.leading(1) as leads, second.leading(1) as also, second.leading(2) as another_task:
        assert (leads, also, another_task) == (True, False, True)
    async with second.leading(1) as leads:
        assert leads


async def draining(registry: Registry) -> Version:
    version = await registry.versions.register("acme", "support", "folder x", by=BY)
    for state in (VersionState.FETCHED, VersionState.VERIFIED, VersionState.READY, VersionState.DRAINING):
        version = await registry.versions.transition(version, state, by=BY)
    return version


async def test_a_version_is_retired_when_all_that_live_have_drained_it(postgres_registry: Registry) -> None:
    first, second, third = (another(postgres_registry) for _ in range(3))
    for registry in (first, second, third):
        await registry.membership.beat()
    version = await draining(first)
    assert (await first.drains.acknowledge(version, by=SYSTEM)).state is VersionState.DRAINING
    assert (await second.drains.acknowledge(version, by=SYSTEM)).state is VersionState.DRAINING
    assert (await second.drains.acknowledge(version, by=SYSTEM)).state is VersionState.DRAINING
    await third.membership.leave()
    assert (await first.drains.acknowledge(version, by=SYSTEM)).state is VersionState.RETIRED
    assert (await second.drains.acknowledge(version, by=SYSTEM)).state is VersionState.RETIRED
    async with first.membership._database.read() as connection:
        assert (await connection.execute(sa.select(replica_tables.drained))).all() == []


async def test_one_server_retires_at_once(sqlite_registry: Registry) -> None:
    version = await draining(sqlite_registry)
    assert (await sqlite_registry.drains.acknowledge(version, by=SYSTEM)).state is VersionState.RETIRED
