"""Resumable uploads of archives: the received bytes are kept when a connection breaks, and the sender continues.

<root>/<tenant>/<id>   the bytes received so far; the file's size is the offset of the next piece
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import ArtifactRefused, SourceRefused, TooManyFetches, UnknownUpload, UploadConflict
from adapters.sources.byte_limit import ByteLimit
from adapters.sources.models import ArchiveSource
from adapters.sources.threads import in_thread
from adapters.store.fsync import CHUNK_BYTES, raising_store_full

MAX_UPLOADS = 4  # of one tenant at the same time
_KEPT_S = 24 * 3600.0
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that has begun."""

    id: str
    received_bytes: int


class Uploads:
    """The uploads below `root`; each belongs to one tenant. Raises: OSError: the disk fails."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._busy: set[str] = set()

    def begin(self, tenant: str) -> Upload:
        """Begin an upload. Raises: TooManyFetches: the tenant has too many unfinished ones; StoreFull."""
        self._expire()
        folder = self._root / tenant
        if folder.is_dir() and len(list(folder.iterdir())) >= MAX_UPLOADS:
            raise TooManyFetches(tenant, MAX_UPLOADS)
        upload_id = secrets.token_hex(16)
        with raising_store_full():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / upload_id).touch()
        return Upload(upload_id, 0)

    def get(self, tenant: str, upload_id: str) -> Upload:
        """The upload with its received bytes. Raises: UnknownUpload."""
        return Upload(upload_id, self._path(tenant, upload_id).stat().st_size)

    async def append(
        self, tenant: str, upload_id: str, offset_bytes: int, chunks: AsyncIterator[bytes]
    ) -> Upload:
        """Add a piece that begins at `offset_bytes`; the received part of an interrupted piece is kept.

        Raises: UnknownUpload; UploadConflict: the offset is wrong, or another piece is being written;
            SourceRefused: too large; StoreFull.
        """
        path = self._path(tenant, upload_id)
        received_bytes = path.stat().st_size
        if offset_bytes != received_bytes or upload_id in self._busy:
            raise UploadConflict(offset_bytes, received_bytes)
        limit = ByteLimit(self._max_bytes)
        limit.add(received_bytes)
        self._busy.add(upload_id)
        try:
            with raising_store_full(), path.open("ab") as file:
                async for chunk in chunks:
                    limit.add(len(chunk))
                    file.write(chunk)
        finally:
            self._busy.discard(upload_id)
        return self.get(tenant, upload_id)

    def source(self, tenant: str, upload_id: str) -> ArchiveSource:
        """The complete archive as a source. Raises: UnknownUpload; UploadConflict: it is being written."""
        path = self._path(tenant, upload_id)
        size_bytes = path.stat().st_size
        if upload_id in self._busy:
            raise UploadConflict(size_bytes, size_bytes)
        return ArchiveSource(_chunks(path), size_bytes)

    @contextmanager
    def consume(self, tenant: str, upload_id: str) -> Iterator[None]:
        """Remove the archive after the block, which reads it, has succeeded or refused it. Raises: UnknownUpload."""
        path = self._path(tenant, upload_id)
        try:
            yield
        except (ArtifactRefused, SourceRefused):
            path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)

    def remove(self, tenant: str, upload_id: str) -> None:
        """Remove an archive. Raises: UnknownUpload."""
        self._path(tenant, upload_id).unlink()

    def _path(self, tenant: str, upload_id: str) -> Path:
        path = self._root / tenant / upload_id
        if not _ID.fullmatch(upload_id) or not path.is_file():
            raise UnknownUpload
        return path

    def _expire(self) -> None:
        """Remove uploads without a new piece for a day."""
        oldest_s = time.time() - _KEPT_S
        for path in self._root.glob("*/*"):
            if path.name not in self._busy and path.stat().st_mtime < oldest_s:
                path.unlink(missing_ok=True)


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await in_thread(lambda: file.read(CHUNK_BYTES)):
            yield chunk
