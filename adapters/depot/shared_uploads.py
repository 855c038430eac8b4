"""Resumable uploads that any server continues: the pieces are in the depot, their order in the registry.

    <depot>/uploads/<id>/<name>   one piece

A piece counts from the moment at which the registry has its row, so two servers never mix theirs, and a server that
dies in the middle of a piece loses that piece only.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from adapters.depot.depot import Depot
from adapters.errors import (
    ArtifactRefused,
    DepotUnavailable,
    RegistryUnavailable,
    SourceRefused,
    SourceUnavailable,
    UnknownUpload,
    UploadBusy,
    UploadConflict,
)
from adapters.registry.replicas.upload_records import Piece, UploadRecords
from adapters.sources.byte_limit import ByteLimit
from adapters.sources.models import ArchiveSource
from adapters.sources.threads import in_thread
from adapters.sources.uploads import GIVES_WAY_S, KEPT_S, MAX_UPLOADS, Upload, too_many_uploads
from adapters.store.fsync import raising_store_full

logger = logging.getLogger("loragate.depot")

_FOLDER = "uploads"


class SharedUploads:
    """The same as `adapters.sources.Uploads` for all servers on one registry and one depot.

    Args:
        records: the registry's part.
        depot: has the pieces.
        spool: a folder of this server, for pieces that are arriving.
        max_bytes: of one upload.
    """

    def __init__(self, records: UploadRecords, depot: Depot, spool: Path, max_bytes: int) -> None:
        self._records = records
        self._depot = depot
        self._spool = spool
        self._max_bytes = max_bytes
        self._written: set[str] = set()
        self._used: set[str] = set()

    async def begin(self, tenant: str) -> Upload:
        """As `Uploads.begin`. Raises: TooManyFetches, RegistryUnavailable."""
        upload_id = secrets.token_hex(16)
        wait_s = await self._records.begin(tenant, upload_id, most=MAX_UPLOADS, gives_way_s=GIVES_WAY_S)
        if wait_s is not None:
            raise too_many_uploads(tenant, wait_s)
        return Upload(upload_id, 0)

    async def get(self, tenant: str, upload_id: str) -> Upload:
        """As `Uploads.get`. Raises: UnknownUpload, RegistryUnavailable."""
        return Upload(upload_id, await self._records.received_bytes(tenant, upload_id))

    async def append(
        self, tenant: str, upload_id: str, offset_bytes: int, chunks: AsyncIterator[bytes]
    ) -> Upload:
        """As `Uploads.append`; of two servers' pieces at the same offset the one that ends first counts.

        Raises: UnknownUpload, UploadConflict, SourceRefused, StoreFull, DepotUnavailable, RegistryUnavailable.
            UploadBusy: this server receives another piece of it.
        """
        if upload_id in self._written:
            await self.get(tenant, upload_id)  # raises for another tenant, which learns nothing
            raise UploadBusy
        self._written.add(upload_id)
        try:
            return await self._append(tenant, upload_id, offset_bytes, chunks)
        finally:
            self._written.discard(upload_id)

    async def _append(
        self, tenant: str, upload_id: str, offset_bytes: int, chunks: AsyncIterator[bytes]
    ) -> Upload:
        received_bytes = await self._records.received_bytes(tenant, upload_id)
        if offset_bytes != received_bytes:
            raise UploadConflict(offset_bytes, received_bytes)
        limit = ByteLimit(self._max_bytes)
        limit.add(received_bytes)
        self._spool.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._spool) as file:
            try:
                with raising_store_full():
                    async for chunk in chunks:
                        limit.add(len(chunk))
                        file.write(chunk)
            finally:  # what came of a piece is kept, also when the connection broke
                with raising_store_full():
                    file.flush()
                if size_bytes := file.tell():
                    piece = Piece(offset_bytes, size_bytes, secrets.token_hex(16))
                    kept = asyncio.ensure_future(self._keep(tenant, upload_id, piece, Path(file.name)))
                    await _finished(kept)
        return await self.get(tenant, upload_id)

    @asynccontextmanager
    async def used(self, tenant: str, upload_id: str) -> AsyncIterator[ArchiveSource]:
        """As `Uploads.used`. Raises: UnknownUpload, UploadBusy, RegistryUnavailable."""
        pieces = await self._records.take(tenant, upload_id, is_mine=upload_id in self._used)
        self._used.add(upload_id)
        try:
            yield ArchiveSource(self._chunks(upload_id, pieces), sum(piece.size_bytes for piece in pieces))
        except (ArtifactRefused, SourceRefused):
            await asyncio.shield(self._discard(tenant, upload_id))
            raise
        except BaseException:  # another try may succeed
            with suppress(RegistryUnavailable):  # this server can use it again anyway
                await asyncio.shield(self._records.release(upload_id))
            raise
        else:
            await asyncio.shield(self._discard(tenant, upload_id))
        finally:
            self._used.discard(upload_id)

    async def remove(self, tenant: str, upload_id: str) -> None:
        """As `Uploads.remove`. Raises: UnknownUpload, RegistryUnavailable."""
        await self._records.remove(tenant, upload_id)
        await self._remove_folder(upload_id)

    async def collect_garbage(self) -> None:
        """Remove uploads without a new piece for a day, and pieces that were left over.

        Raises: RegistryUnavailable, DepotUnavailable.
        """
        folders = await in_thread(partial(self._depot.names, _FOLDER))
        left = await self._records.expire(KEPT_S)
        for name in sorted(folders - left):
            await self._remove_folder(name)

    async def _keep(self, tenant: str, upload_id: str, piece: Piece, file: Path) -> None:
        """Put a piece into the depot, then into the registry. Raises: as `append`."""
        name = f"{_FOLDER}/{upload_id}/{piece.name}"
        await in_thread(partial(self._depot.write_file, file, name))
        try:
            await self._records.add_piece(tenant, upload_id, piece)
        except (UnknownUpload, UploadConflict, SourceRefused):
            with suppress(DepotUnavailable):  # it goes with the upload
                await in_thread(partial(self._depot.remove_all, name))
            raise

    async def _chunks(self, upload_id: str, pieces: tuple[Piece, ...]) -> AsyncIterator[bytes]:
        for piece in pieces:
            chunks = self._depot.read_file(f"{_FOLDER}/{upload_id}/{piece.name}")
            left_bytes = piece.size_bytes
            while chunk := await in_thread(partial(next, chunks, b"")):
                left_bytes -= len(chunk)
                yield chunk
            if left_bytes:
                raise SourceUnavailable("A piece of the upload is not whole in the depot; upload it again.")

    async def _discard(self, tenant: str, upload_id: str) -> None:
        """Remove an upload that has served its purpose; what fails here is garbage later."""
        with suppress(UnknownUpload, RegistryUnavailable):
            await self.remove(tenant, upload_id)

    async def _remove_folder(self, upload_id: str) -> None:
        try:
            await in_thread(partial(self._depot.remove_all, f"{_FOLDER}/{upload_id}"))
        except DepotUnavailable:
            logger.warning("The pieces of an upload could not be removed from the depot; it is tried again.")


async def _finished(task: asyncio.Task[None]) -> None:
    """Wait for a task's end, also after a cancellation, because it reads a file that is about to go."""
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
