"""Two servers on one registry and one folder of adapters: neither harms what the other does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.depot.depot import Depot
from adapters.lifecycle import adding
from adapters.models import VersionState
from adapters.registry import Registry
from adapters.residency import Phase
from tests.unit.adapters.lifecycle.support import BY, Plant, another, build_plant

S = VersionState


@pytest.fixture
async def servers(postgres_registry: Registry, tmp_path: Path) -> AsyncIterator[tuple[Plant, Plant]]:
    both = tuple(build_plant(another(postgres_registry), tmp_path) for _ in range(2))
    for plant in both:
        plant.registry.membership._unbroken_since = 0.0  # running for a while
        await plant.registry.membership.beat()
        plant.registry.membership._unbroken_since = 0.0
    yield both  # type: ignore[misc]
    for plant in both:
        await plant.lifecycle.aclose()
        await plant.residency.aclose()


async def until(condition: object, plant: Plant) -> None:
    """Until the condition holds, while the server looks at the registry again and again."""
    async with asyncio.timeout(10):
        while not condition():  # type: ignore[operator]
            await plant.lifecycle.converge()
            await asyncio.sleep(0.02)


async def test_a_start_leaves_what_a_living_server_adds_alone(
    servers: tuple[Plant, Plant], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = servers
    may_go_on, real_fetch = asyncio.Event(), adding.fetch

    async def slow_fetch(*args: object, **options: object) -> object:
        await may_go_on.wait()
        return await real_fetch(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(adding, "fetch", slow_fetch)
    uploading = asyncio.ensure_future(first.add(0))
    await asyncio.sleep(0.05)
    found = await second.lifecycle.recover()
    assert found.failed == found.finished == ()
    may_go_on.set()
    version = await first.registry.versions.get("acme", "support", await uploading)
    assert version.state is S.READY and version.owner == first.registry.membership.own.id


async def test_what_a_dead_server_was_adding_fails_with_the_reason(
    servers: tuple[Plant, Plant], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = servers
    monkeypatch.setattr(adding, "fetch", lambda *args, **options: asyncio.Event().wait())
    uploading = asyncio.ensure_future(first.add(0))
    await asyncio.sleep(0.05)
    await first.registry.membership.leave()  # the row of a dead server is as good as none
    taken = await asyncio.gather(second.lifecycle.take_over(), second.lifecycle.take_over())
    (version,) = taken[0] + taken[1]
    assert version.state is S.FAILED and "stopped while the adapter was being added" in str(version.error)
    uploading.cancel()
    await asyncio.wait({uploading})
    assert (await first.registry.versions.get("acme", "support", 1)).error == version.error


async def test_nothing_is_taken_over_while_nobody_can_tell_who_lives(servers: tuple[Plant, Plant]) -> None:
    first, second = servers
    await first.registry.versions.register("acme", "support", "folder x", by=BY, owner="a dead one")
    second.registry.membership._unbroken_since = float("inf")
    assert await second.lifecycle.take_over() == ()
    second.registry.membership._unbroken_since = 0.0
    assert [version.state for version in await second.lifecycle.take_over()] == [S.FAILED]


async def test_a_removed_version_leaves_every_engine_when_its_requests_have_ended(
    servers: tuple[Plant, Plant],
) -> None:
    first, second = servers
    number = await first.add(0)
    version = await first.registry.versions.get("acme", "support", number)
    async with second.lifecycle.loading.hold(version):
        (draining,) = await first.lifecycle.remove("acme", "support", number, by=BY, wait_s=0.2)
        assert draining.state is S.DRAINING
        await second.lifecycle.converge()
        await asyncio.sleep(0.1)
        assert second.residency.phase(version.engine_id) is not None  # it still answers
        assert (await first.registry.versions.get("acme", "support", number)).state is S.DRAINING
    await until(lambda: second.residency.phase(version.engine_id) is None, second)
    async with asyncio.timeout(5):
        while (await first.registry.versions.get("acme", "support", number)).state is not S.RETIRED:
            await asyncio.sleep(0.05)


async def test_a_drain_does_not_wait_for_the_dead(servers: tuple[Plant, Plant]) -> None:
    first, second = servers
    number = await first.add(0)
    await second.registry.membership.leave()
    (version,) = await first.lifecycle.remove("acme", "support", number, by=BY, wait_s=5)
    assert version.state is S.RETIRED


async def test_a_start_does_not_retire_what_another_server_drains(servers: tuple[Plant, Plant]) -> None:
    first, second = servers
    number = await first.add(0)
    version = await first.registry.versions.get("acme", "support", number)
    async with first.lifecycle.loading.hold(version):
        await first.lifecycle.remove("acme", "support", number, by=BY, wait_s=0.05)
        assert (await second.lifecycle.recover()).retired == ()
        assert (await first.registry.versions.get("acme", "support", number)).state is S.DRAINING


async def test_a_pin_holds_on_every_server(servers: tuple[Plant, Plant]) -> None:
    first, second = servers
    number = await first.add(0)
    version = await first.lifecycle.loading.pin("acme", "support", number, by=BY)
    await until(lambda: second.residency.phase(version.engine_id) is Phase.RESIDENT, second)
    assert second.residency.pinned == {version.engine_id}
    await second.lifecycle.loading.unpin("acme", "support", number, by=BY)
    await until(lambda: not first.residency.pinned, first)


async def test_a_pin_that_cannot_be_loaded_here_is_logged(
    servers: tuple[Plant, Plant], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = servers
    for seed in range(2):
        number = await first.add(seed)
        await first.lifecycle.loading.pin("acme", "support", number, by=BY)
    second.residency.capacity = 1  # a smaller machine
    await second.lifecycle.converge()
    await asyncio.sleep(0.05)
    assert "could not be loaded here" in caplog.text


async def test_a_version_that_lost_its_traffic_elsewhere_is_unloaded_here(
    servers: tuple[Plant, Plant],
) -> None:
    first, second = servers
    old, new = await first.add(0), await first.add(1)
    await first.lifecycle.promote("acme", "support", old, by=BY)
    version = await first.registry.versions.get("acme", "support", old)
    by_number = await first.registry.versions.get("acme", "support", new)
    for each in (version, by_number):
        async with second.lifecycle.loading.hold(each):
            pass
    await second.lifecycle.converge()
    await asyncio.sleep(0.1)
    assert second.residency.phase(by_number.engine_id) is Phase.RESIDENT  # it had no traffic to lose
    await first.lifecycle.promote("acme", "support", new, by=BY)
    await until(lambda: second.residency.phase(version.engine_id) is None, second)
    assert second.residency.phase(by_number.engine_id) is Phase.RESIDENT


async def test_an_engine_id_that_another_server_has_renewed_is_unloaded(servers: tuple[Plant, Plant]) -> None:
    first, second = servers
    number = await first.add(0)
    version = await first.registry.versions.get("acme", "support", number)
    async with second.lifecycle.loading.hold(version):
        await first.registry.versions.renew_engine_id(version, by=BY)
        await second.lifecycle.converge()
    await until(lambda: second.residency.phase(version.engine_id) is None, second)


async def test_with_a_depot_each_server_has_a_folder_of_its_own(
    postgres_registry: Registry, tmp_path: Path
) -> None:
    depot = Depot(f"file://{tmp_path}/depot")
    first, second = (
        build_plant(another(postgres_registry), tmp_path / name, depot=depot) for name in ("a", "b")
    )
    number = await first.add(0)
    version = await first.registry.versions.get("acme", "support", number)
    assert second.store.present() == ()
    async with second.lifecycle.loading.hold(version) as held:
        assert (held.path / "manifest.json").exists()
    # A third one, which starts later, finds neither damage nor garbage.
    third = build_plant(another(postgres_registry), tmp_path / "c", depot=depot)
    found = await third.lifecycle.recover(deep=True)
    assert found.damaged == () and await third.lifecycle.check_store(pause_s=0) == ()
    await first.lifecycle.remove("acme", "support", number, by=BY)
    assert await third.lifecycle.collect_depot_garbage() == ()  # it is young
    for file in (tmp_path / "depot" / "sha256" / str(version.digest)).iterdir():
        os.utime(file, (1, 1))
    assert await third.lifecycle.collect_depot_garbage() == (version.digest,)
    for plant in (first, second, third):
        await plant.lifecycle.aclose()
        await plant.residency.aclose()


async def test_a_server_that_died_after_it_had_shared_leaves_a_ready_version(
    postgres_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depot = Depot(f"file://{tmp_path}/depot")
    first, second = (
        build_plant(another(postgres_registry), tmp_path / name, depot=depot) for name in ("a", "b")
    )
    monkeypatch.setattr(
        "adapters.lifecycle.adding.VersionAdder._fail", lambda *args, **facts: asyncio.sleep(0)
    )
    transition = first.registry.versions.transition

    async def die_before_ready(version: object, to: VersionState, **facts: object) -> object:
        if to is S.READY:
            raise KeyboardInterrupt
        return await transition(version, to, **facts)  # type: ignore[arg-type]

    monkeypatch.setattr(first.registry.versions, "transition", die_before_ready)
    with pytest.raises(KeyboardInterrupt):
        await first.add(0)
    await second.registry.membership.beat()
    second.registry.membership._unbroken_since = 0.0
    (version,) = await second.lifecycle.take_over()
    assert version.state is S.READY
    async with second.lifecycle.loading.hold(version):
        pass
    for plant in (first, second):
        await plant.lifecycle.aclose()
        await plant.residency.aclose()
