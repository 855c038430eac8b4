"""A full store: removing an adapter makes room at once, and nothing that is needed is removed."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from adapters.errors import RegistryUnavailable, StoreFull
from adapters.lifecycle import stored_artifacts
from adapters.registry import Registry
from tests.unit.adapters.lifecycle.support import BY, Plant, build_plant


@pytest.fixture(autouse=True)
def _exact_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was published a moment ago can be removed; the kernel's file times are some ms old."""
    monkeypatch.setattr(stored_artifacts, "_CLOCK_MARGIN_S", 0.0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one adapter, and not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=56k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
async def plant(sqlite_registry: Registry, tmp_path: Path) -> AsyncIterator[Plant]:
    plant = build_plant(sqlite_registry, tmp_path)
    yield plant
    await plant.lifecycle.aclose()
    await plant.residency.aclose()


def stored(plant: Plant) -> set[str]:
    return {path.name for path in plant.store.path("x").parent.iterdir()}


async def test_a_removed_adapter_makes_room_for_the_next_one_at_once(
    sqlite_registry: Registry, small_disk: Path, tmp_path: Path
) -> None:
    plant = build_plant(sqlite_registry, small_disk)
    plant.folder = tmp_path  # the sources lie elsewhere
    await plant.add(1)
    with pytest.raises(
        StoreFull, match="remove adapters, whose space is free when their last request has ended"
    ):
        await plant.add(2)
    await plant.lifecycle.remove("acme", "support", 1, by=BY)
    await plant.add(3)
    assert len(stored(plant)) == 1
    await plant.lifecycle.aclose()
    await plant.residency.aclose()


async def test_space_is_free_when_the_last_request_has_ended(plant: Plant) -> None:
    number = await plant.add(1)
    version = await plant.registry.versions.get("acme", "support", number)
    async with plant.lifecycle.loading.hold(version):
        await plant.lifecycle.remove("acme", "support", number, by=BY, wait_s=0.05)
        assert stored(plant) == {version.digest}
    async with asyncio.timeout(5):
        while stored(plant):
            await asyncio.sleep(0.01)


async def test_what_another_version_needs_stays(plant: Plant) -> None:
    await plant.add(1)
    await plant.add(1)
    await plant.lifecycle.remove("acme", "support", 1, by=BY)
    (digest,) = stored(plant)
    second = await plant.registry.versions.get("acme", "support", 2)
    assert digest == second.digest


async def test_what_is_published_while_the_registry_is_read_stays(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = plant.registry.versions.digests

    async def read_then_publish() -> frozenset[str]:
        found = await digests()
        await plant.add(2)
        return found

    await plant.add(1)
    old = stored(plant)
    for digest in old:
        os.utime(plant.store.path(digest), (0, 0))
    await plant.lifecycle.remove("acme", "support", 1, by=BY)
    assert not stored(plant)
    monkeypatch.setattr(plant.registry.versions, "digests", read_then_publish)
    assert await stored_artifacts.collect_garbage(plant.registry, plant.store) == ()
    version = await plant.registry.versions.get("acme", "support", 2)
    assert stored(plant) == {version.digest}


async def test_a_removal_succeeds_though_its_space_cannot_be_freed_yet(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    number = await plant.add(1)

    async def away(*args: object) -> None:
        raise RegistryUnavailable

    with monkeypatch.context() as patch:
        patch.setattr("adapters.lifecycle.draining.collect_garbage", away)
        (retired,) = await plant.lifecycle.remove("acme", "support", number, by=BY)
    assert retired.state == "retired" and "could not be freed" in caplog.text
    await plant.lifecycle.reconcile()
    assert not stored(plant)
