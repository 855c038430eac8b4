"""Archives in pieces: kept as far as they came, one tenant's own, bounded."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.errors import (
    ArtifactRefused,
    SourceRefused,
    StoreFull,
    TooManyFetches,
    UnknownUpload,
    UploadBusy,
    UploadConflict,
)
from adapters.sources import Uploads
from adapters.sources.uploads import GIVES_WAY_S, MAX_UPLOADS
from tests.unit.adapters.sources.support import pieces


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path / "uploads", max_bytes=100)


async def test_what_came_of_a_broken_piece_is_kept(uploads: Uploads) -> None:
    upload = await uploads.begin("acme")
    with pytest.raises(ConnectionError):
        await uploads.append("acme", upload.id, 0, pieces(b"abc", b"de", ConnectionError()))
    assert (await uploads.get("acme", upload.id)).received_bytes == 5
    for offset in (0, 4, 6):
        with pytest.raises(UploadConflict, match="5 bytes have arrived"):
            await uploads.append("acme", upload.id, offset, pieces(b"x"))
    assert (await uploads.append("acme", upload.id, 5, pieces(b"fgh"))).received_bytes == 8
    async with uploads.used("acme", upload.id) as source:
        assert source.size_bytes == 8 and b"".join([chunk async for chunk in source.chunks]) == b"abcdefgh"


async def test_two_writers_do_not_mix(uploads: Uploads, tmp_path: Path) -> None:
    first, another_process = uploads, Uploads(tmp_path / "uploads", max_bytes=100)
    upload = await uploads.begin("acme")

    async def slow() -> AsyncIterator[bytes]:
        yield b""
        for uploads in (first, another_process):
            with pytest.raises(UploadBusy):
                await uploads.append("acme", upload.id, 0, pieces(b"x"))
            with pytest.raises(UploadBusy):
                async with uploads.used("acme", upload.id):
                    pass
        yield b"whole"

    assert (await first.append("acme", upload.id, 0, slow())).received_bytes == 5


@pytest.mark.parametrize("upload_id", ["", "0" * 32, "../acme", "..", "x" * 32])
async def test_unknown_ids_and_those_of_others(uploads: Uploads, upload_id: str) -> None:
    mine = (await uploads.begin("acme")).id
    for tenant, asked in (("acme", upload_id), ("globex", mine)):
        with pytest.raises(UnknownUpload):
            await uploads.get(tenant, asked)


async def test_too_large(uploads: Uploads) -> None:
    upload = await uploads.begin("acme")
    await uploads.append("acme", upload.id, 0, pieces(b"x" * 90))
    with pytest.raises(SourceRefused, match="limit of 100"):
        await uploads.append("acme", upload.id, 90, pieces(b"x" * 20))


async def test_a_tenant_has_few_at_once_and_old_ones_end(uploads: Uploads, tmp_path: Path) -> None:
    begun = [await uploads.begin("acme") for _ in range(MAX_UPLOADS)]
    with pytest.raises(TooManyFetches, match="4 unfinished uploads") as refused:
        await uploads.begin("acme")
    assert 0 < refused.value.retry_after_s <= GIVES_WAY_S
    await uploads.begin("globex")
    for age_s in (GIVES_WAY_S + 1, 25 * 3600):
        old_s = time.time() - age_s
        oldest = begun.pop(1).id
        os.utime(tmp_path / "uploads" / "acme" / oldest, (old_s, old_s))
        begun.append(await uploads.begin("acme"))
        with pytest.raises(UnknownUpload):
            await uploads.get("acme", oldest)
    with pytest.raises(TooManyFetches):
        await uploads.begin("acme")
    for upload in begun:
        await uploads.get("acme", upload.id)


@pytest.mark.parametrize(
    ("error", "kept"), [(None, False), (ArtifactRefused("no"), False), (StoreFull("full"), True)]
)
async def test_it_is_removed_when_it_is_of_no_more_use(
    uploads: Uploads, error: Exception | None, kept: bool
) -> None:
    upload = await uploads.begin("acme")
    try:
        async with uploads.used("acme", upload.id):
            if error:
                raise error
    except (ArtifactRefused, StoreFull):
        pass
    try:
        await uploads.get("acme", upload.id)
        assert kept
    except UnknownUpload:
        assert not kept
