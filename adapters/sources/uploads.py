"""Resumable uploads of archives: the received bytes are kept when a connection breaks, and the sender continues.

<root>/<tenant>/<id>   the bytes received so far; the file's size is the offset of the next piece
"""

from __future__ import annotations

import fcntl
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from adapters.errors import (
    ArtifactRefused,
    SourceRefused,
    TooManyFetches,
    UnknownUpload,
    UploadBusy,
    UploadConflict,
)
from adapters.sources.byte_limit import ByteLimit
from adapters.sources.models import ArchiveSource
from adapters.sources.threads import in_thread
from adapters.store.fsync import CHUNK_BYTES, raising_store_full

MAX_UPLOADS = 4  # of one tenant at the same time
KEPT_S = 24 * 3600.0
GIVES_WAY_S = 600.0
"""Without a new piece for so long, an upload is removed when its tenant begins one too many."""
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that has begun."""

    id: str
    received_bytes: int


class Uploads:
    """The uploads below `root`; each belongs to one tenant, and one request at a time writes or uses it.

    A lock on the file says so, also to another process on the same folder. Raises: OSError: the disk fails.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes

    async def begin(self, tenant: str) -> Upload:
        """Begin an upload. Raises: TooManyFetches: the tenant has too many unfinished ones; StoreFull."""
        await self.collect_garbage()
        folder = self._root / tenant
        unfinished = {path: path.stat().st_mtime for path in folder.glob("*")}
        if len(unfinished) >= MAX_UPLOADS:
            oldest = min(unfinished, key=lambda path: unfinished[path])
            idle_s = time.time() - unfinished[oldest]
            if idle_s < GIVES_WAY_S:
                raise too_many_uploads(tenant, GIVES_WAY_S - idle_s)
            oldest.unlink(missing_ok=True)
        upload_id = secrets.token_hex(16)
        with raising_store_full():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / upload_id).touch()
        return Upload(upload_id, 0)

    async def get(self, tenant: str, upload_id: str) -> Upload:
        """The upload with its received bytes. Raises: UnknownUpload."""
        return Upload(upload_id, self._path(tenant, upload_id).stat().st_size)

    async def append(
        self, tenant: str, upload_id: str, offset_bytes: int, chunks: AsyncIterator[bytes]
    ) -> Upload:
        """Add a piece that begins at `offset_bytes`; the received part of an interrupted piece is kept.

        Raises: UnknownUpload; UploadConflict: the offset is wrong; UploadBusy: another piece is being written;
            SourceRefused: too large; StoreFull.
        """
        path = self._path(tenant, upload_id)
        with raising_store_full(), path.open("ab") as file, _locked(file):
            received_bytes = path.stat().st_size
            if offset_bytes != received_bytes:
                raise UploadConflict(offset_bytes, received_bytes)
            limit = ByteLimit(self._max_bytes)
            limit.add(received_bytes)
            async for chunk in chunks:
                limit.add(len(chunk))
                file.write(chunk)
        return await self.get(tenant, upload_id)

    @asynccontextmanager
    async def used(self, tenant: str, upload_id: str) -> AsyncIterator[ArchiveSource]:
        """The complete archive as a source; it is removed after a block that has succeeded or refused it.

        Raises: UnknownUpload; UploadBusy: a piece is being written, or a version added from it.
        """
        path = self._path(tenant, upload_id)
        with path.open("rb") as file, _locked(file):
            try:
                yield ArchiveSource(_chunks(file), path.stat().st_size)
            except (ArtifactRefused, SourceRefused):
                path.unlink(missing_ok=True)
                raise
            path.unlink(missing_ok=True)

    async def remove(self, tenant: str, upload_id: str) -> None:
        """Remove an archive. Raises: UnknownUpload."""
        self._path(tenant, upload_id).unlink()

    async def collect_garbage(self) -> None:
        """Remove uploads without a new piece for a day."""
        oldest_s = time.time() - KEPT_S
        for path in self._root.glob("*/*"):
            if path.stat().st_mtime < oldest_s:
                path.unlink(missing_ok=True)

    def _path(self, tenant: str, upload_id: str) -> Path:
        path = self._root / tenant / upload_id
        if not _ID.fullmatch(upload_id) or not path.is_file():
            raise UnknownUpload
        return path


def too_many_uploads(tenant: str, wait_s: float) -> TooManyFetches:
    """The refusal of one more upload; after `wait_s` the oldest one gives way."""
    message = (
        f"Tenant {tenant!r} has {MAX_UPLOADS} unfinished uploads, the most; finish or remove one of them, or wait "
        f"{max(1, round(wait_s))} s, when the oldest gives way to a new one."
    )
    return TooManyFetches(message, retry_after_s=max(1.0, wait_s))


@contextmanager
def _locked(file: IO[bytes]) -> Iterator[None]:
    """Hold the file's lock, which ends with the process at the latest. Raises: UploadBusy."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UploadBusy from error
    try:
        yield
    finally:
        file.flush()
        fcntl.flock(file, fcntl.LOCK_UN)


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await in_thread(lambda: file.read(CHUNK_BYTES)):
        yield chunk
