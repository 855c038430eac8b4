"""Uploads in pieces over two servers on one real PostgreSQL and one depot: any server takes any piece."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from adapters.depot.depot import Depot
from adapters.depot.shared_uploads import SharedUploads
from adapters.errors import (
    ArtifactRefused,
    DepotUnavailable,
    RegistryUnavailable,
    SourceRefused,
    SourceUnavailable,
    StoreFull,
    TooManyFetches,
    UnknownUpload,
    UploadBusy,
    UploadConflict,
)
from adapters.registry import Registry
from adapters.registry.replicas import upload_records
from adapters.sources.uploads import GIVES_WAY_S, MAX_UPLOADS
from tests.unit.adapters.lifecycle.support import another
from tests.unit.adapters.sources.support import pieces


@pytest.fixture
async def registries(postgres_registry: Registry) -> tuple[Registry, Registry]:
    both = (another(postgres_registry), another(postgres_registry))
    for registry in both:
        await registry.membership.beat()
        registry.membership._unbroken_since = 0.0
    return both


@pytest.fixture
def servers(registries: tuple[Registry, Registry], tmp_path: Path) -> tuple[SharedUploads, SharedUploads]:
    depot = Depot(f"file://{tmp_path}/depot")
    made = (
        SharedUploads(registry.uploads, depot, tmp_path / name, max_bytes=100)
        for registry, name in zip(registries, "ab", strict=True)
    )
    return tuple(made)  # type: ignore[return-value]


def kept_files(folder: Path) -> int:
    return sum(path.is_file() for path in (folder / "depot" / "uploads").glob("**/*"))


async def content_of(server: SharedUploads, upload_id: str) -> bytes:
    async with server.used("acme", upload_id) as source:
        content = b"".join([chunk async for chunk in source.chunks])
        assert source.size_bytes == len(content)
    return content


async def test_each_piece_may_reach_another_server(
    servers: tuple[SharedUploads, SharedUploads], tmp_path: Path
) -> None:
    first, second = servers
    upload = await first.begin("acme")
    assert (await second.get("acme", upload.id)).received_bytes == 0
    assert (await second.append("acme", upload.id, 0, pieces(b"ab", b"c"))).received_bytes == 3
    with pytest.raises(ConnectionError):
        await first.append("acme", upload.id, 3, pieces(b"de", ConnectionError()))
    for offset in (0, 3, 6):
        with pytest.raises(UploadConflict, match="5 bytes have arrived"):
            await second.append("acme", upload.id, offset, pieces(b"x"))
    assert (await second.append("acme", upload.id, 5, pieces(b"fgh"))).received_bytes == 8
    assert await content_of(first, upload.id) == b"abcdefgh"
    with pytest.raises(UnknownUpload):
        await second.get("acme", upload.id)
    assert kept_files(tmp_path) == 0 and not list((tmp_path / "a").iterdir())


async def test_two_servers_never_mix_their_pieces(
    servers: tuple[SharedUploads, SharedUploads], tmp_path: Path
) -> None:
    upload = await servers[0].begin("acme")

    async def both_began() -> None:
        started[0] += 1
        while started[0] < 2:
            await asyncio.sleep(0.01)

    async def slow(text: bytes) -> AsyncIterator[bytes]:
        await both_began()
        for byte in text:
            yield bytes([byte])

    started = [0]
    done = await asyncio.gather(
        servers[0].append("acme", upload.id, 0, slow(b"aaaa")),
        servers[1].append("acme", upload.id, 0, slow(b"bbbb")),
        return_exceptions=True,
    )
    assert sorted(type(each).__name__ for each in done) == ["Upload", "UploadConflict"]
    assert kept_files(tmp_path) == 1
    assert await content_of(servers[1], upload.id) in (b"aaaa", b"bbbb")


async def test_one_server_receives_one_piece_of_an_upload_at_a_time(
    servers: tuple[SharedUploads, SharedUploads],
) -> None:
    """Each takes space on the server's disk until it has ended."""
    first, _ = servers
    upload = await first.begin("acme")

    async def slow() -> AsyncIterator[bytes]:
        yield b"ab"
        with pytest.raises(UploadBusy):
            await first.append("acme", upload.id, 0, pieces(b"x"))
        with pytest.raises(UnknownUpload):
            await first.append("globex", upload.id, 0, pieces(b"x"))

    assert (await first.append("acme", upload.id, 0, slow())).received_bytes == 2
    assert (await first.append("acme", upload.id, 2, pieces(b"c"))).received_bytes == 3


async def test_a_server_that_dies_in_a_piece_loses_that_piece_only(
    servers: tuple[SharedUploads, SharedUploads], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = servers
    upload = await first.begin("acme")
    await first.append("acme", upload.id, 0, pieces(b"abc"))

    async def died(*_: object) -> int:
        raise RegistryUnavailable  # as after a kill: the file is in the depot, and no row says so

    monkeypatch.setattr(first._records, "add_piece", died)
    with pytest.raises(RegistryUnavailable):
        await first.append("acme", upload.id, 3, pieces(b"lost"))
    assert (await second.append("acme", upload.id, 3, pieces(b"def"))).received_bytes == 6
    assert await content_of(second, upload.id) == b"abcdef"


async def test_while_a_version_is_added_nobody_else_has_the_upload(
    servers: tuple[SharedUploads, SharedUploads], registries: tuple[Registry, Registry]
) -> None:
    first, second = servers
    upload = await first.begin("acme")
    await first.append("acme", upload.id, 0, pieces(b"abc"))
    async with first.used("acme", upload.id):
        for server in servers:
            with pytest.raises(UploadBusy):
                await server.append("acme", upload.id, 3, pieces(b"d"))
            with pytest.raises(UploadBusy):
                await content_of(server, upload.id)
        await registries[0].membership.leave()  # it dies: another one may go on
        assert await content_of(second, upload.id) == b"abc"


@pytest.mark.parametrize(
    ("error", "kept"), [(None, False), (ArtifactRefused("no"), False), (StoreFull("full"), True)]
)
async def test_it_is_removed_when_it_is_of_no_more_use(
    servers: tuple[SharedUploads, SharedUploads], error: Exception | None, kept: bool
) -> None:
    upload = await servers[0].begin("acme")
    try:
        async with servers[0].used("acme", upload.id):
            if error:
                raise error
    except (ArtifactRefused, StoreFull):
        pass
    if kept:
        assert await content_of(servers[1], upload.id) == b""
    with pytest.raises(UnknownUpload):
        await servers[1].get("acme", upload.id)


@pytest.mark.parametrize("upload_id", ["", "0" * 32, "../acme", ".."])
async def test_unknown_ids_and_those_of_others(
    servers: tuple[SharedUploads, SharedUploads], upload_id: str
) -> None:
    mine = (await servers[0].begin("acme")).id
    for tenant, asked in (("acme", upload_id), ("globex", mine)):
        with pytest.raises(UnknownUpload):
            await servers[1].get(tenant, asked)
        with pytest.raises(UnknownUpload):
            await servers[1].append(tenant, asked, 0, pieces(b"x"))
        with pytest.raises(UnknownUpload):
            await servers[1].remove(tenant, asked)


async def test_the_limits_hold_for_all_servers_together(
    servers: tuple[SharedUploads, SharedUploads], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = await asyncio.gather(
        *(servers[number % 2].begin("acme") for number in range(MAX_UPLOADS + 4)), return_exceptions=True
    )
    ids = [upload.id for upload in begun if not isinstance(upload, BaseException)]
    refused = [error for error in begun if isinstance(error, TooManyFetches)]
    assert len(ids) == MAX_UPLOADS and len(refused) == 4
    await servers[1].remove("acme", ids.pop())
    await servers[0].begin("acme")
    await servers[0].append("acme", ids[0], 0, pieces(b"x" * 90))
    with pytest.raises(SourceRefused, match="limit of 100"):
        await servers[1].append("acme", ids[0], 90, pieces(b"x" * 20))
    monkeypatch.setattr(upload_records, "MAX_PIECES", 1)
    with pytest.raises(SourceRefused, match="1 pieces, the most"):
        await servers[1].append("acme", ids[0], 90, pieces(b"x"))


async def test_one_that_its_sender_has_left_gives_way_to_a_new_one(
    servers: tuple[SharedUploads, SharedUploads], registries: tuple[Registry, Registry]
) -> None:
    begun = [(await servers[number % 2].begin("acme")).id for number in range(MAX_UPLOADS)]
    with pytest.raises(TooManyFetches, match="4 unfinished uploads") as refused:
        await servers[0].begin("acme")
    assert 0 < refused.value.retry_after_s <= GIVES_WAY_S
    async with registries[0].uploads._database.write() as connection:
        text = "UPDATE uploads SET changed_at = now() - make_interval(secs => :s) WHERE id = :id"
        await connection.execute(sa.text(text), {"id": begun[1], "s": GIVES_WAY_S + 1})
    begun.append((await servers[1].begin("acme")).id)
    with pytest.raises(UnknownUpload):
        await servers[0].get("acme", begun.pop(1))
    with pytest.raises(TooManyFetches):
        await servers[0].begin("acme")
    for upload_id in begun:
        await servers[0].get("acme", upload_id)


async def test_what_is_left_over_is_removed(
    servers: tuple[SharedUploads, SharedUploads], registries: tuple[Registry, Registry], tmp_path: Path
) -> None:
    first, second = servers
    old, new = await first.begin("acme"), await first.begin("acme")
    for upload in (old, new):
        await first.append("acme", upload.id, 0, pieces(b"abc"))
    leftover = tmp_path / "depot" / "uploads" / ("0" * 32)
    leftover.mkdir()
    (leftover / "piece").write_bytes(b"of an upload that was removed meanwhile")
    async with registries[0].uploads._database.write() as connection:
        text = "UPDATE uploads SET changed_at = now() - interval '25 hours' WHERE id = :id"
        await connection.execute(sa.text(text), {"id": old.id})
    await second.collect_garbage()
    with pytest.raises(UnknownUpload):
        await first.get("acme", old.id)
    assert kept_files(tmp_path) == 1 and await content_of(second, new.id) == b"abc"


async def test_a_depot_that_is_away_costs_no_piece_and_no_upload(
    servers: tuple[SharedUploads, SharedUploads], tmp_path: Path
) -> None:
    upload = await servers[0].begin("acme")
    (tmp_path / "depot").write_bytes(b"not a folder")
    with pytest.raises(DepotUnavailable):
        await servers[0].append("acme", upload.id, 0, pieces(b"abc"))
    assert (await servers[1].get("acme", upload.id)).received_bytes == 0
    (tmp_path / "depot").unlink()
    await servers[1].append("acme", upload.id, 0, pieces(b"abc"))
    (piece,) = (tmp_path / "depot" / "uploads" / upload.id).iterdir()
    piece.write_bytes(b"a")
    with pytest.raises(SourceUnavailable, match="not whole"):
        await content_of(servers[1], upload.id)
    shutil.rmtree(tmp_path / "depot")
    with pytest.raises(DepotUnavailable):
        await content_of(servers[0], upload.id)
