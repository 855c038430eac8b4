"""Which pieces of which upload have arrived, on whichever server; the bytes are in the depot. PostgreSQL only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.errors import SourceRefused, UnknownUpload, UploadBusy, UploadConflict
from adapters.registry.database import Database
from adapters.registry.replicas.membership import Membership, seconds_since
from adapters.registry.schema import replica_tables, tables

_U, _P, _T = replica_tables.uploads, replica_tables.upload_pieces, tables.tenants

#: The most pieces of one upload: each costs a row and a file in the depot.
MAX_PIECES = 10_000


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an upload."""

    offset_bytes: int
    size_bytes: int
    name: str
    """Of its file in the depot."""


class UploadRecords:
    """The uploads of all servers; each change locks the upload's row."""

    def __init__(self, database: Database, membership: Membership) -> None:
        self._database = database
        self._membership = membership

    async def begin(self, tenant: str, upload_id: str, *, most: int, gives_way_s: float) -> float | None:
        """Begin an upload; returns None, or after how many seconds it can begin.

        With `most` of the tenant's already there, it takes the place of the one that has not changed for the longest
        time, if that is at least `gives_way_s`. Raises: RegistryUnavailable.
        """
        idle_s = seconds_since(_U.c.changed_at).label("idle_s")
        unfinished = sa.select(_U.c.id, idle_s).where(_U.c.tenant == tenant).order_by(_U.c.changed_at)
        row = {"id": upload_id, "tenant": tenant, "changed_at": sa.func.now()}
        async with self._database.write() as connection:
            # The lock: two servers that begin one at the same time count one after the other.
            await connection.execute(sa.select(_T.c.name).where(_T.c.name == tenant).with_for_update())
            found = (await connection.execute(unfinished)).all()
            if len(found) >= most:
                if found[0].idle_s < gives_way_s:
                    return gives_way_s - float(found[0].idle_s)
                await _delete(connection, [found[0].id])
            await connection.execute(sa.insert(_U).values(**row))
        return None

    async def received_bytes(self, tenant: str, upload_id: str) -> int:
        """The bytes that have arrived. Raises: UnknownUpload, RegistryUnavailable."""
        async with self._database.read() as connection:
            await _read(connection, tenant, upload_id)
            return _size(await _pieces(connection, upload_id))

    async def add_piece(self, tenant: str, upload_id: str, piece: Piece) -> int:
        """Record a piece whose file is in the depot; returns the bytes received so far.

        Raises:
            UnknownUpload; UploadConflict: it does not begin where the last one ended.
            UploadBusy: a version is added from the upload; SourceRefused: too many pieces.
            RegistryUnavailable: it is not known whether the piece was recorded.
        """
        async with self._changing(tenant, upload_id) as (connection, used_by):
            if used_by is not None:
                raise UploadBusy
            pieces = await _pieces(connection, upload_id)
            received_bytes = _size(pieces)
            if piece.offset_bytes != received_bytes:
                raise UploadConflict(piece.offset_bytes, received_bytes)
            if len(pieces) >= MAX_PIECES:
                raise SourceRefused(
                    f"The upload has {len(pieces)} pieces, the most; begin again with larger ones."
                )
            row = {"offset_bytes": piece.offset_bytes, "size_bytes": piece.size_bytes, "name": piece.name}
            await connection.execute(sa.insert(_P).values(upload=upload_id, **row))
            await connection.execute(
                sa.update(_U).where(_U.c.id == upload_id).values(changed_at=sa.func.now())
            )
            return received_bytes + piece.size_bytes

    async def take(self, tenant: str, upload_id: str, *, is_mine: bool) -> tuple[Piece, ...]:
        """Let this server add a version from the upload; returns its pieces in order.

        Args:
            tenant, upload_id: which.
            is_mine: whether this server uses it already.

        Raises: UnknownUpload, RegistryUnavailable; UploadBusy: a server that lives uses it.
        """
        own = self._membership.own.id
        living = {replica.id for replica in await self._membership.live()}
        async with self._changing(tenant, upload_id) as (connection, used_by):
            if is_mine or (used_by in living and used_by != own):
                raise UploadBusy
            taken = sa.update(_U).where(_U.c.id == upload_id)
            await connection.execute(taken.values(used_by=own, changed_at=sa.func.now()))
            return await _pieces(connection, upload_id)

    async def release(self, upload_id: str) -> None:
        """Undo `take`. Raises: RegistryUnavailable."""
        mine = sa.and_(_U.c.id == upload_id, _U.c.used_by == self._membership.own.id)
        async with self._database.write() as connection:
            await connection.execute(sa.update(_U).where(mine).values(used_by=None))

    async def remove(self, tenant: str, upload_id: str) -> None:
        """Forget an upload. Raises: UnknownUpload, RegistryUnavailable."""
        async with self._changing(tenant, upload_id) as (connection, _):
            await _delete(connection, [upload_id])

    async def expire(self, kept_s: float) -> frozenset[str]:
        """Forget what has not changed for `kept_s`; returns the ids that are left. Raises: RegistryUnavailable."""
        old = sa.select(_U.c.id).where(seconds_since(_U.c.changed_at) >= kept_s).with_for_update()
        async with self._database.write() as connection:
            await _delete(connection, list((await connection.execute(old)).scalars()))
            return frozenset((await connection.execute(sa.select(_U.c.id))).scalars())

    @asynccontextmanager
    async def _changing(
        self, tenant: str, upload_id: str
    ) -> AsyncIterator[tuple[AsyncConnection, str | None]]:
        """A transaction that holds the upload's row, and who uses it. Raises: UnknownUpload."""
        async with self._database.write() as connection:
            yield connection, await _read(connection, tenant, upload_id, locking=True)


async def _read(
    connection: AsyncConnection, tenant: str, upload_id: str, *, locking: bool = False
) -> str | None:
    """The server that uses the upload. Raises: UnknownUpload."""
    query = sa.select(_U.c.used_by).where(_U.c.id == upload_id, _U.c.tenant == tenant)
    row = (await connection.execute(query.with_for_update() if locking else query)).one_or_none()
    if row is None:
        raise UnknownUpload
    return row.used_by  # type: ignore[no-any-return]


async def _pieces(connection: AsyncConnection, upload_id: str) -> tuple[Piece, ...]:
    query = sa.select(_P.c.offset_bytes, _P.c.size_bytes, _P.c.name).where(_P.c.upload == upload_id)
    rows = (await connection.execute(query.order_by(_P.c.offset_bytes))).mappings()
    return tuple(Piece(**row) for row in rows)


def _size(pieces: tuple[Piece, ...]) -> int:
    return sum(piece.size_bytes for piece in pieces)


async def _delete(connection: AsyncConnection, upload_ids: list[str]) -> None:
    await connection.execute(sa.delete(_P).where(_P.c.upload.in_(upload_ids)))
    await connection.execute(sa.delete(_U).where(_U.c.id.in_(upload_ids)))
