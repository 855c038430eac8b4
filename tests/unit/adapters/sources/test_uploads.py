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
    UploadConflict,
)
from adapters.sources import Uploads
from adapters.sources.uploads import MAX_UPLOADS


async def pieces(*chunks: bytes | Exception) -> AsyncIterator[bytes]:
    for chunk in chunks:
        if isinstance(chunk, Exception):
            raise chunk
        yield chunk


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path / "uploads", max_bytes=100)


async def test_what_came_of_a_broken_piece_is_kept(uploads: Uploads) -> None:
    upload = uploads.begin("acme")
    with pytest.raises(ConnectionError):
        await uploads.append("acme", upload.id, 0, pieces(b"abc", b"de", ConnectionError()))
    assert uploads.get("acme", upload.id).received_bytes == 5
    for offset in (0, 4, 6):
        with pytest.raises(UploadConflict, match="5 bytes have arrived"):
            await uploads.append("acme", upload.id, offset, pieces(b"x"))
    assert (await uploads.append("acme", upload.id, 5, pieces(b"fgh"))).received_bytes == 8
    source = uploads.source("acme", upload.id)
    assert source.size_bytes == 8 and b"".join([chunk async for chunk in source.chunks]) == b"abcdefgh"


async def test_two_writers_do_not_mix(uploads: Uploads) -> None:
    upload = uploads.begin("acme")

    async def slow() -> AsyncIterator[bytes]:
        yield b""
        with pytest.raises(UploadConflict):
            await uploads.append("acme", upload.id, 0, pieces(b"x"))
        with pytest.raises(UploadConflict):
            uploads.source("acme", upload.id)
        yield b"whole"

    assert (await uploads.append("acme", upload.id, 0, slow())).received_bytes == 5


@pytest.mark.parametrize("upload_id", ["", "0" * 32, "../acme", "..", "x" * 32])
def test_unknown_ids_and_those_of_others(uploads: Uploads, upload_id: str) -> None:
    mine = uploads.begin("acme").id
    for tenant, asked in (("acme", upload_id), ("globex", mine)):
        with pytest.raises(UnknownUpload):
            uploads.get(tenant, asked)


async def test_too_large(uploads: Uploads) -> None:
    upload = uploads.begin("acme")
    await uploads.append("acme", upload.id, 0, pieces(b"x" * 90))
    with pytest.raises(SourceRefused, match="limit of 100"):
        await uploads.append("acme", upload.id, 90, pieces(b"x" * 20))


def test_a_tenant_has_few_at_once_and_old_ones_end(uploads: Uploads, tmp_path: Path) -> None:
    begun = [uploads.begin("acme") for _ in range(MAX_UPLOADS)]
    with pytest.raises(TooManyFetches):
        uploads.begin("acme")
    uploads.begin("globex")
    old_s = time.time() - 25 * 3600
    os.utime(tmp_path / "uploads" / "acme" / begun[0].id, (old_s, old_s))
    uploads.begin("acme")
    with pytest.raises(UnknownUpload):
        uploads.get("acme", begun[0].id)


@pytest.mark.parametrize(
    ("error", "kept"), [(None, False), (ArtifactRefused("no"), False), (StoreFull("full"), True)]
)
def test_it_is_removed_when_it_is_of_no_more_use(
    uploads: Uploads, error: Exception | None, kept: bool
) -> None:
    upload = uploads.begin("acme")
    try:
        with uploads.consume("acme", upload.id):
            if error:
                raise error
    except (ArtifactRefused, StoreFull):
        pass
    try:
        uploads.get("acme", upload.id)
        assert kept
    except UnknownUpload:
        assert not kept
