"""A version gets traffic when `--prove-on` servers have loaded and probed it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from adapters.errors import ProbeFailed, ProofFailed, ProofTimedOut
from adapters.lifecycle import proving as module
from adapters.models import AliasTarget
from adapters.registry import Registry
from tests.unit.adapters.lifecycle.support import BY, Plant, another, build_plant


@pytest.fixture
async def servers(
    postgres_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Plant]]:
    """Three that live and serve; each can judge who is dead, and asks all others."""
    monkeypatch.setattr(module, "_POLL_INTERVAL_S", 0.02)
    plants = [build_plant(another(postgres_registry), tmp_path) for _ in range(3)]
    for plant in plants:
        await plant.registry.membership.beat(serves=True)
        plant.registry.membership._unbroken_since = 0.0
        plant.lifecycle.proving._servers = None
    yield plants
    for plant in plants:
        await plant.lifecycle.aclose()
        await plant.residency.aclose()


def id_of(plant: Plant) -> str:
    return plant.registry.membership.own.id


async def look(plant: Plant) -> None:
    """What the loop of a server does: look whether it is asked, again and again."""
    while True:
        await plant.lifecycle.proving.answer()
        await asyncio.sleep(0.02)


@contextmanager
def looking(*plants: Plant) -> Iterator[None]:
    tasks = [asyncio.create_task(look(plant)) for plant in plants]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


def failing(plant: Plant, error: Exception) -> None:
    """Let every probe on this server end so."""

    async def probe(adapter: object) -> None:
        raise error

    plant.loader.probe = probe  # type: ignore[method-assign]


async def test_all_servers_prove_a_version_before_it_gets_traffic(servers: list[Plant]) -> None:
    first, *others = servers
    number = await first.add(0)
    with looking(*others):
        alias = await first.lifecycle.promote("acme", "support", number, by=BY)
    assert alias.proven_on[0] == id_of(first) and set(alias.proven_on) == {id_of(plant) for plant in servers}
    version = await first.registry.versions.get("acme", "support", number)
    assert all(plant.residency.phase(version.engine_id) is not None for plant in servers)
    assert await others[0].registry.proofs.asked() == ()


@pytest.mark.parametrize("wanted", [1, 2])
async def test_as_many_are_asked_as_the_setting_says(servers: list[Plant], wanted: int) -> None:
    first, *others = servers
    first.lifecycle.proving._servers = wanted
    number = await first.add(0)
    with looking(*others):
        alias = await first.lifecycle.promote("acme", "support", number, by=BY)
    version = await first.registry.versions.get("acme", "support", number)
    loaded = {id_of(plant) for plant in servers if plant.residency.phase(version.engine_id) is not None}
    assert loaded == set(alias.proven_on) and len(loaded) == wanted


async def test_one_failing_proof_refuses_the_promotion_and_says_where_and_why(servers: list[Plant]) -> None:
    first, second, third = servers
    old, new = await first.add(0), await first.add(1)
    first.lifecycle.proving._servers = 1
    await first.lifecycle.promote("acme", "support", old, by=BY)
    first.lifecycle.proving._servers = None
    failing(third, ProbeFailed("Its numbers were not finite."))
    with (
        looking(second, third),
        pytest.raises(ProofFailed, match=f"server {id_of(third)[:8]} .*not finite. Nothing has changed"),
    ):
        await first.lifecycle.promote("acme", "support", new, by=BY)
    assert (await first.registry.aliases.get("acme", "support")).targets == (AliasTarget(old),)


async def test_an_unexpected_failure_is_told_without_its_details(servers: list[Plant]) -> None:
    first = servers[0]
    first.lifecycle.proving._servers = 2
    number = await first.add(0)
    for other in servers[1:]:
        failing(other, OSError("/secret/path"))
    with looking(*servers[1:]), pytest.raises(ProofFailed, match="in that server's log") as refusal:
        await first.lifecycle.promote("acme", "support", number, by=BY)
    assert "secret" not in str(refusal.value)


async def test_a_bad_version_reaches_no_other_server(servers: list[Plant]) -> None:
    first, second, _ = servers
    number = await first.add(0)
    failing(first, ProbeFailed("Its numbers were not finite."))
    with looking(*servers[1:]), pytest.raises(ProbeFailed):
        await first.lifecycle.promote("acme", "support", number, by=BY)
    assert not second.residency.snapshot().slots


async def test_a_server_that_dies_is_replaced_by_another(servers: list[Plant]) -> None:
    first, second, third = servers
    first.lifecycle.proving._servers = 2
    number = await first.add(0)
    promoting = asyncio.create_task(first.lifecycle.promote("acme", "support", number, by=BY))
    while not (asked := [plant for plant in (second, third) if await plant.registry.proofs.asked()]):
        await asyncio.sleep(0.02)
    (dying,) = asked
    living = third if dying is second else second
    with looking(living):
        await asyncio.sleep(0.1)
        assert not promoting.done()
        await dying.registry.membership.leave()  # the row of a dead server is as good as none
        alias = await asyncio.wait_for(promoting, 5)
    assert alias.proven_on == (id_of(first), id_of(living))


async def test_servers_that_die_or_do_not_serve_are_dropped_where_no_other_is_left(
    servers: list[Plant],
) -> None:
    first, second, third = servers
    number = await first.add(0)
    promoting = asyncio.create_task(first.lifecycle.promote("acme", "support", number, by=BY))
    while not await third.registry.proofs.asked():
        await asyncio.sleep(0.02)
    await second.registry.membership.leave()
    await third.registry.membership.beat(serves=False)  # its engine restarts
    assert (await asyncio.wait_for(promoting, 5)).proven_on == (id_of(first),)


async def test_a_server_that_lives_and_is_silent_refuses_the_promotion(
    servers: list[Plant], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = servers
    monkeypatch.setattr(module, "PROOF_TIMEOUT_S", 0.2)
    number = await first.add(0)
    with looking(second), pytest.raises(ProofTimedOut, match=f"from {id_of(third)[:8]} within 0.2 s"):
        await first.lifecycle.promote("acme", "support", number, by=BY)
    assert (await first.registry.aliases.get("acme", "support")).generation == 0
    assert await third.registry.proofs.asked() == ()  # nobody waits for it any more


async def test_what_has_traffic_already_and_a_rollback_need_no_other_server(servers: list[Plant]) -> None:
    """No other server looks here, so a request for a proof would wait."""
    first, *others = servers
    old, new = await first.add(0), await first.add(1)
    with looking(*others):
        await first.lifecycle.promote("acme", "support", old, by=BY)
        halves = (AliasTarget(old, 1), AliasTarget(new, 1))
        assert len((await first.lifecycle.split("acme", "support", halves, by=BY)).proven_on) == 3
    async with asyncio.timeout(5):
        moved = await first.lifecycle.split(
            "acme", "support", (AliasTarget(old, 1), AliasTarget(new, 9)), by=BY
        )
        await first.lifecycle.promote("acme", "support", new, by=BY)
        back = await first.lifecycle.rollback("acme", "support", by=BY)
    assert moved.proven_on == back.proven_on == (id_of(first),)


async def test_one_tenant_does_not_delay_the_proofs_of_others(
    servers: list[Plant], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = servers
    started: list[str] = []

    async def probe(tenant: str, adapter: str, numbers: object) -> None:
        started.append(tenant)
        await asyncio.Event().wait()

    monkeypatch.setattr(second.lifecycle.loading, "probe", probe)
    asked = [
        module.ProofRequest(f"{number}", id_of(second), tenant, "a", 1)
        for number, tenant in enumerate(["acme"] * 9 + ["globex"])
    ]
    await first.registry.proofs.ask(asked)
    for _ in range(2):
        await second.lifecycle.proving.answer()
        await asyncio.sleep(0)
    assert sorted(started) == ["acme", "acme", "globex"]


async def test_the_requests_of_a_dead_server_are_forgotten(servers: list[Plant]) -> None:
    first, second, _ = servers
    request = module.ProofRequest("1" * 32, id_of(second), "acme", "support", 1)
    await first.registry.proofs.ask([request])
    assert await second.registry.proofs.asked() == (request,)
    await second.registry.proofs.forget()
    assert await second.registry.proofs.asked() == (request,)
    async with second.registry.proofs._database.write() as connection:
        await connection.execute(sa.text("UPDATE proofs SET asked_at = now() - interval '61 minutes'"))
    assert await second.registry.proofs.asked() == ()
    await second.registry.proofs.forget()
    assert await second.registry.proofs.answers(request.id) == ()


async def test_one_server_on_sqlite_proves_by_itself(sqlite_registry: Registry, tmp_path: Path) -> None:
    plant = build_plant(sqlite_registry, tmp_path)
    plant.lifecycle.proving._servers = 3
    alias = await plant.lifecycle.promote("acme", "support", await plant.add(0), by=BY)
    assert alias.proven_on == (id_of(plant),)
    await plant.lifecycle.aclose()
    await plant.residency.aclose()
