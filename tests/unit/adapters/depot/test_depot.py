"""A depot in a folder: what is put there is whole, what is fetched is verified, what is old and unneeded goes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters.depot.depot import Depot
from adapters.depot.local_copies import LocalCopies
from adapters.errors import DepotUnavailable, SourceRefused, StoreDamaged
from adapters.store.content import MANIFEST, content_bytes
from adapters.store.store import Store

WEIGHTS = "adapter_model.safetensors"


def publish(store: Store, content: bytes) -> str:
    with store.staging() as staging:
        (staging.files / WEIGHTS).write_bytes(content)
        artifact = store.seal(staging, {"r": 4})
        store.publish(staging, artifact)
    return artifact.digest


@dataclass
class Side:
    """One server's copies."""

    store: Store
    copies: LocalCopies


@pytest.fixture
def depot(tmp_path: Path) -> Depot:
    return Depot(f"file://{tmp_path}/depot")


@pytest.fixture
async def sides(tmp_path: Path, depot: Depot) -> AsyncIterator[tuple[Side, Side]]:
    stores = [Store(tmp_path / name) for name in "ab"]
    made = tuple(Side(store, LocalCopies(store, depot)) for store in stores)
    yield made  # type: ignore[misc]
    for side in made:
        await side.copies.aclose()


async def test_an_artifact_of_one_server_is_had_by_the_other(sides: tuple[Side, Side], depot: Depot) -> None:
    first, second = sides
    digest = publish(first.store, b"weights")
    assert not depot.has(digest)
    await first.copies.share(digest)
    assert depot.has(digest) and depot.digests() == {digest}
    async with second.copies.needed(digest):
        folder = second.store.require(digest)
        assert (
            (folder / WEIGHTS).read_bytes() == b"weights" and not os.access(folder / WEIGHTS, os.W_OK)
        ) or os.geteuid() == 0
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, "adapter_config.json", MANIFEST}


async def test_many_who_need_it_fetch_it_once(
    sides: tuple[Side, Side], depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sides
    digest = publish(first.store, b"weights")
    await first.copies.share(digest)
    fetches, fetch = [], depot.fetch

    def slow_fetch(digest: str, into: Path) -> bool:
        fetches.append(digest)
        time.sleep(0.05)
        return fetch(digest, into)

    monkeypatch.setattr(depot, "fetch", slow_fetch)

    async def need() -> None:
        async with second.copies.needed(digest):
            second.store.require(digest)

    leaving, *staying = [asyncio.create_task(need()) for _ in range(5)]
    await asyncio.sleep(0.01)
    leaving.cancel()
    await asyncio.gather(*staying)
    assert fetches == [digest]


@pytest.mark.parametrize("file", [WEIGHTS, "adapter_config.json", MANIFEST])
async def test_a_damaged_depot_is_noticed(sides: tuple[Side, Side], tmp_path: Path, file: str) -> None:
    first, second = sides
    digest = publish(first.store, b"weights")
    await first.copies.share(digest)
    (tmp_path / "depot" / "sha256" / digest / file).write_bytes(b"other w")
    with pytest.raises(StoreDamaged, match="here and in the depot"):
        async with second.copies.needed(digest):
            raise AssertionError
    assert second.store.present() == ()


async def test_what_nobody_has_is_missing(sides: tuple[Side, Side]) -> None:
    with pytest.raises(StoreDamaged):
        async with sides[0].copies.needed("0" * 64):
            raise AssertionError
    assert not await sides[0].copies.exists("0" * 64)


async def test_an_upload_that_was_cut_off_is_no_artifact(
    sides: tuple[Side, Side], depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sides
    digest = publish(first.store, b"weights")
    upload = depot._upload

    def cut_off(file: Path, name: str) -> None:
        if file.name == MANIFEST:
            raise OSError
        upload(file, name)

    monkeypatch.setattr(depot, "_upload", cut_off)
    with pytest.raises(DepotUnavailable):
        await first.copies.share(digest)
    assert not depot.has(digest) and not await second.copies.exists(digest)
    monkeypatch.undo()
    assert await first.copies.exists(digest)  # the copy that is only here is shared
    assert depot.has(digest)


async def test_a_damaged_copy_is_replaced(sides: tuple[Side, Side]) -> None:
    first, _ = sides
    digest = publish(first.store, b"weights")
    await first.copies.share(digest)
    file = first.store.path(digest) / WEIGHTS
    file.chmod(0o644)
    file.write_bytes(b"WEIGHTS")
    assert await first.copies.exists(digest)  # in the depot
    async with first.copies.needed(digest):
        assert file.read_bytes() == b"weights"


async def test_the_least_recently_used_copies_go(sides: tuple[Side, Side], depot: Depot) -> None:
    first, second = sides
    digests = [publish(first.store, bytes([number]) * 5000) for number in range(4)]
    for digest in digests:
        await first.copies.share(digest)
    size = content_bytes(first.store.path(digests[0]))
    loaded = {digests[0][:12]}
    second.copies = LocalCopies(second.store, depot, 2 * size, lambda: loaded)
    for digest in digests[:3]:
        async with second.copies.needed(digest):
            await asyncio.sleep(0.02)
    assert set(second.store.present()) == {digests[0], digests[2]}  # the first one is loaded
    async with second.copies.needed(digests[2]), second.copies.needed(digests[3]):
        assert set(second.store.present()) == {digests[0], digests[2], digests[3]}  # all of them are in use


async def test_what_the_depot_lacks_is_put_there_before_the_copy_goes(
    sides: tuple[Side, Side], depot: Depot
) -> None:
    first, _ = sides
    old = publish(first.store, b"from before there was a depot")
    new = publish(first.store, b"new")
    os.utime(first.store.path(old), (1, 1))
    first.copies = LocalCopies(first.store, depot, 1)
    await first.copies.share(new)
    assert depot.has(old) and old not in first.store.present()
    async with first.copies.needed(old):
        assert first.store.require(old)


async def test_without_a_depot_nothing_is_fetched_or_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    copies = LocalCopies(store, None, 1)
    digest = publish(store, b"weights")
    await copies.share(digest)
    async with copies.needed(digest):
        pass
    assert await copies.exists(digest) and store.present() == (digest,)
    with pytest.raises(StoreDamaged, match="add the adapter again"):
        async with copies.needed("0" * 64):
            raise AssertionError


async def test_a_depot_removes_only_what_is_old(sides: tuple[Side, Side], depot: Depot) -> None:
    digest = publish(sides[0].store, b"weights")
    await sides[0].copies.share(digest)
    assert not depot.remove(digest) and depot.has(digest)
    assert depot.remove(digest, min_age_s=-1) and depot.digests() == frozenset()


async def test_an_artifact_that_is_put_again_counts_as_new(
    sides: tuple[Side, Side], depot: Depot, tmp_path: Path
) -> None:
    digest = publish(sides[0].store, b"weights")
    await sides[0].copies.share(digest)
    for file in (tmp_path / "depot" / "sha256" / digest).iterdir():
        os.utime(file, (1, 1))
    await sides[0].copies.share(digest)
    assert not depot.remove(digest)


async def test_a_depot_that_is_away_is_told_apart_from_damage(
    sides: tuple[Side, Side], tmp_path: Path
) -> None:
    digest = publish(sides[0].store, b"weights")
    (tmp_path / "depot").write_bytes(b"a file where the folder was")
    with pytest.raises(DepotUnavailable, match="cannot be reached"):
        await sides[0].copies.share(digest)
    async with sides[0].copies.needed(digest):  # a copy that is here needs no depot
        pass


def test_a_bucket_needs_its_package() -> None:
    with pytest.raises(SourceRefused, match="needs the package"):
        Depot("s3://bucket/adapters")


async def test_the_folder_of_a_store_is_a_depot(sides: tuple[Side, Side], tmp_path: Path) -> None:
    first, second = sides
    digest = publish(first.store, b"weights")
    old = Depot(f"file://{tmp_path}/a")
    second.copies = LocalCopies(second.store, old)
    async with second.copies.needed(digest):
        assert second.store.require(digest)
    assert old.remove(digest, min_age_s=-1) and not old.has(digest)
