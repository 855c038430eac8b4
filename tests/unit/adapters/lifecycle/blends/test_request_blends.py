"""Blends of requests: made once, held while used, and bounded for each tenant without a loss for others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import ArtifactRefused, BadValue, BlendLimit, LoadFailed, StoreDamaged
from adapters.lifecycle.blends.blending import ScaledVersion
from adapters.lifecycle.blends.request_blends import FIRST_ENGINE_ID, BlendLimits, RequestBlends
from adapters.models import EngineAdapter, Version
from adapters.registry import Registry
from tests.unit.adapters.lifecycle.support import BY, RULES, Plant, build_plant

CAPACITY = 8


@pytest.fixture
async def plant(sqlite_registry: Registry, tmp_path: Path) -> AsyncIterator[Plant]:
    plant = build_plant(sqlite_registry, tmp_path, capacity=CAPACITY)
    for seed, name in enumerate(("support", "tone", "brief")):
        await plant.add(seed, name)
    yield plant
    await plant.lifecycle.aclose()
    await plant.residency.aclose()


async def version(plant: Plant, name: str) -> Version:
    return await plant.registry.versions.get("acme", name, 1)


def blends_of(plant: Plant, **limits: Any) -> RequestBlends:
    return RequestBlends(
        plant.lifecycle._copies, plant.residency, RULES, BlendLimits(**{"per_minute": 1000} | limits)
    )


@pytest.fixture
async def blends(plant: Plant) -> AsyncIterator[RequestBlends]:
    blends = blends_of(plant, per_tenant=2)
    yield blends
    await blends.aclose()


async def parts(plant: Plant, first: float, second: float = 1.0) -> list[ScaledVersion]:
    return [
        ScaledVersion(await version(plant, "support"), first),
        ScaledVersion(await version(plant, "tone"), second),
    ]


def folders(plant: Plant) -> set[str]:
    """The digests of the blends on the disk."""
    staging = plant.folder / "store" / "staging"
    return {path.name for path in staging.glob("*/files/*") if len(path.name) == 64}


async def test_a_blend_is_made_once_whatever_the_order(plant: Plant, blends: RequestBlends) -> None:
    wanted = await parts(plant, 1.0, 0.5)

    async def use(of: list[ScaledVersion]) -> EngineAdapter:
        async with blends.hold("acme", of) as adapter:
            assert adapter.engine_id in plant.loader.ids
            assert (adapter.path / "adapter_model.safetensors").exists()
            return adapter

    used = await asyncio.gather(*(use(wanted if n % 2 else wanted[::-1]) for n in range(20)))
    assert len({adapter.engine_id for adapter in used}) == 1 == blends.count == len(folders(plant))
    assert used[0].engine_id == FIRST_ENGINE_ID and used[0].engine_name.startswith("acme/blend-0#")
    assert (await use(await parts(plant, 1.0, 0.6))) != used[0]


async def test_a_tenant_with_many_scales_removes_only_its_own_blends(
    plant: Plant, blends: RequestBlends
) -> None:
    others = [plant.lifecycle.loading.engine_adapter(await version(plant, n)) for n in ("support", "brief")]
    for adapter in others:
        async with plant.residency.hold(adapter):
            pass
    async with blends.hold("globex", await parts(plant, 3.0)) as of_globex:
        pass
    for number in range(40):
        async with blends.hold("acme", await parts(plant, 0.1 + number / 100)):
            assert blends.count <= 3
    await asyncio.sleep(0.2)
    assert len(folders(plant)) == blends.count == 3
    assert {adapter.engine_id for adapter in (*others, of_globex)} <= plant.loader.ids
    assert len(plant.loader.ids) == 5
    assert not plant.residency._retired  # nothing is kept of those that are gone


async def test_a_blend_in_use_stays_and_a_further_one_is_refused(plant: Plant, blends: RequestBlends) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(blends.hold("acme", await parts(plant, 1.0)))
        await stack.enter_async_context(blends.hold("acme", await parts(plant, 2.0)))
        with pytest.raises(BlendLimit, match="use 2 blends of this tenant") as refused:
            await stack.enter_async_context(blends.hold("acme", await parts(plant, 3.0)))
        assert refused.value.retry_after_s > 0
        assert await stack.enter_async_context(blends.hold("acme", await parts(plant, 1.0))) == first
        async with blends.hold("globex", await parts(plant, 3.0)):
            assert first.engine_id in plant.loader.ids
    async with blends.hold("acme", await parts(plant, 3.0)):
        pass


async def test_new_blends_have_a_rate(plant: Plant) -> None:
    blends = blends_of(plant, per_minute=3)
    for number in (1, 2, 3, 3, 2, 1):
        async with blends.hold("acme", await parts(plant, float(number))):
            pass
    with pytest.raises(BlendLimit, match="3 new blends were made within the last minute") as refused:
        async with blends.hold("acme", await parts(plant, 0.5)):
            pass
    assert 50 < refused.value.retry_after_s <= 61
    async with blends.hold("acme", await parts(plant, 1.0)):  # it exists
        pass
    async with blends.hold("globex", await parts(plant, 0.5)):
        pass
    await blends.aclose()
    assert not folders(plant)


async def test_the_disk_has_a_limit_for_all_together(plant: Plant) -> None:
    size = int((await version(plant, "support")).size_bytes or 0)
    blends = blends_of(plant, max_bytes=7 * size)  # two blends of two sizes each, and no third one
    async with blends.hold("acme", await parts(plant, 1.0)):
        async with blends.hold("globex", await parts(plant, 1.0, 0.25)) as second:
            assert blends.count == 2
        with pytest.raises(BlendLimit, match=f"more than {2 * size} bytes"):
            full = blends_of(plant, max_bytes=2 * size)
            async with full.hold("acme", await parts(plant, 1.0)):
                pass
        async with blends.hold("initech", await parts(plant, 2.0)):
            await asyncio.sleep(0.1)
            assert blends.count == 2 and second.engine_id not in plant.loader.ids
    await blends.aclose()


async def test_failures_are_told_and_leave_nothing(plant: Plant) -> None:
    blends = blends_of(plant, wait_s=10)
    for seed in (4, 5, 6, 7):
        await plant.add(seed, "support")
    wide = [
        ScaledVersion(await plant.registry.versions.get("acme", "support", number), 1.0)
        for number in (1, 2, 3, 4, 5)
    ]
    with pytest.raises(ArtifactRefused, match="add up to 20, above --max-lora-rank 16"):
        async with blends.hold("acme", wide):
            pass
    assert blends.count == 0 and not folders(plant)
    missing = ScaledVersion(await version(plant, "brief"), 0.5)
    plant.store._damaged.add(str(missing.version.digest))
    with pytest.raises(StoreDamaged):
        async with blends.hold("acme", [missing]):
            pass
    plant.store._damaged.clear()
    with pytest.raises(BadValue, match="--max-blends 0"):
        async with blends_of(plant, per_tenant=0).hold("acme", wide):
            pass
    await blends.aclose()


async def test_an_engine_id_that_failed_to_load_is_not_used_again(
    plant: Plant, blends: RequestBlends, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = plant.loader.load

    async def fail(adapter: EngineAdapter) -> None:
        raise LoadFailed("no")

    monkeypatch.setattr(plant.loader, "load", fail)
    with pytest.raises(LoadFailed):
        async with blends.hold("acme", await parts(plant, 1.0)):
            pass
    monkeypatch.setattr(plant.loader, "load", load)
    async with blends.hold("acme", await parts(plant, 1.0)) as adapter:
        assert adapter.engine_id == FIRST_ENGINE_ID + 1


async def test_a_slow_blend_is_made_although_nobody_waits(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    blends = blends_of(plant, wait_s=0.05)
    write = blends._files.write

    def slow(of: Any) -> Any:
        time.sleep(0.3)
        return write(of)

    monkeypatch.setattr(blends._files, "write", slow)
    wanted = await parts(plant, 1.0)
    with pytest.raises(BlendLimit, match=r"not ready within 0\.05 s"):
        async with blends.hold("acme", wanted):
            pass
    await asyncio.sleep(0.5)
    async with blends.hold("acme", wanted):
        assert blends.count == 1
    await blends.aclose()


async def test_a_blend_that_nobody_uses_is_removed(plant: Plant, blends: RequestBlends) -> None:
    async with blends.hold("acme", await parts(plant, 1.0)) as used:
        async with blends.hold("acme", await parts(plant, 2.0)) as idle:
            pass
        blends.drop_idle(idle_s=60.0)
        assert blends.count == 2
        blends.drop_idle(idle_s=0.0)
        assert blends.count == 1
        await asyncio.sleep(0.2)
        assert used.engine_id in plant.loader.ids and idle.engine_id not in plant.loader.ids
        assert folders(plant) == {used.path.name}


async def test_what_other_servers_change_does_not_unload_a_blend(plant: Plant, blends: RequestBlends) -> None:
    async with blends.hold("acme", await parts(plant, 1.0)) as adapter:
        pass
    await plant.lifecycle.converge()
    await asyncio.sleep(0.1)
    assert adapter.engine_id in plant.loader.ids
    await plant.lifecycle.promote("acme", "tone", 1, by=BY)
    assert not await plant.lifecycle.reconcile()
    assert adapter.engine_id in plant.loader.ids
