"""What one process knows of versions: running fetches, repaired drift, damaged copies, a full disk."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from adapters.errors import StoreDamaged, StoreFull, TooManyFetches
from adapters.lifecycle import DriftKind
from adapters.lifecycle.fetch_progress import MAX_FETCHES
from adapters.models import Tenant, Version
from adapters.registry import Registry, connect
from adapters.sources import ArchiveSource
from tests.unit.adapters.lifecycle.support import BY, Plant, build_plant


@pytest.fixture
async def plant(sqlite_registry: Registry, tmp_path: Path) -> AsyncIterator[Plant]:
    plant = build_plant(sqlite_registry, tmp_path)
    yield plant
    await plant.lifecycle.aclose()
    await plant.residency.aclose()


async def add(plant: Plant) -> Version:
    return await plant.lifecycle.register("acme", "support", plant.source(), by=BY)


async def test_a_copy_that_rots_is_found_and_never_loaded(plant: Plant) -> None:
    """One flipped bit: the sizes are right, the numbers are not."""
    version = await add(plant)
    weights = plant.lifecycle.loading.engine_adapter(version).path / "adapter_model.safetensors"
    assert await plant.lifecycle.check_store(pause_s=0) == ()
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert not plant.lifecycle.condition(version).damaged
    assert await plant.lifecycle.check_store(pause_s=0) == (version,)
    assert plant.lifecycle.condition(version).damaged
    with pytest.raises(StoreDamaged):
        async with plant.lifecycle.loading.hold(version):
            pass
    assert plant.loader.calls == []
    await add(plant)  # the same weights
    assert not plant.lifecycle.condition(version).damaged
    async with plant.lifecycle.loading.hold(version):
        assert plant.lifecycle.condition(version).slot is not None


async def test_drift_is_remembered_with_its_version(plant: Plant) -> None:
    version = await add(plant)
    assert plant.lifecycle.drifts.reconciled_at is None
    async with plant.lifecycle.loading.hold(version):
        plant.loader.ids.discard(version.engine_id)
        drift = await plant.lifecycle.reconcile()
    assert drift.missing == (version.engine_id,)
    drifted = plant.lifecycle.condition(version).drifted
    assert drifted is not None and drifted.kind is DriftKind.MISSING
    assert drifted.at == plant.lifecycle.drifts.reconciled_at


async def test_a_tenant_adds_few_versions_at_once(plant: Plant) -> None:
    on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"12345"
        await on.wait()

    def begin(tenant: str) -> asyncio.Task[Version]:
        return asyncio.create_task(
            plant.lifecycle.register(tenant, "support", ArchiveSource(slow(), 9), by=BY)
        )

    adding = [begin("acme") for _ in range(MAX_FETCHES)]
    while plant.lifecycle.fetches.count("acme") < MAX_FETCHES:
        await asyncio.sleep(0.01)
    with pytest.raises(TooManyFetches, match="already adds 4 versions"):
        await begin("acme")
    adding.append(begin("globex"))
    while plant.lifecycle.fetches.count("globex") < 1:
        await asyncio.sleep(0.01)
    version = await plant.registry.versions.get("acme", "support", 1)
    fetching = plant.lifecycle.condition(version).fetching
    assert fetching is not None and (fetching.fetched_bytes, fetching.total_bytes) == (5, 9)
    on.set()
    await asyncio.gather(*adding, return_exceptions=True)
    assert plant.lifecycle.condition(version).fetching is None
    assert plant.lifecycle.fetches.count("acme") == 0


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of few KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount; tests/e2e/test_survival_uploads.py limits the server's files instead")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("small_disk", [16], indirect=True)
async def test_a_full_disk_leaves_a_failed_version_and_room(
    sqlite_registry: Registry, small_disk: Path, tmp_path: Path
) -> None:
    plant = build_plant(sqlite_registry, small_disk)
    plant.folder = tmp_path  # the sources lie elsewhere
    with pytest.raises(StoreFull, match="The disk that holds the adapter store is full"):
        await add(plant)
    version = await plant.registry.versions.get("acme", "support", 1)
    assert version.state == "failed" and "full" in str(version.error)
    assert not list((small_disk / "store" / "staging").iterdir())
    assert not list((small_disk / "store" / "sha256").iterdir())
    await plant.residency.aclose()


@pytest.mark.parametrize("small_disk", [2048], indirect=True)
async def test_a_registry_on_a_full_disk_changes_nothing(small_disk: Path, migrated_sqlite: Path) -> None:
    shutil.copy(migrated_sqlite, small_disk / "registry.db")
    engine = connect(f"sqlite:///{small_disk}/registry.db")
    registry = Registry(engine)
    await registry.tenants.add(Tenant("acme"), by=BY)
    with pytest.raises(OSError, match="No space"), (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    with pytest.raises(StoreFull, match="The disk that holds the registry is full"):
        for number in range(200):
            await registry.tenants.add(Tenant(f"t{number}"), by=BY)
    before = await registry.tenants.list()
    assert before
    (small_disk / "filler").unlink()
    await registry.tenants.add(Tenant("later"), by=BY)
    assert len(await registry.tenants.list()) == len(before) + 1
    await engine.dispose()
