"""The servers that share a registry: each writes every second that it lives, and who has not for a while is dead.

SQLite has one server: it lives, all others are dead, and nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

import sqlalchemy as sa

from adapters.registry.database import Database, DatabasePart, insert_into
from adapters.registry.schema import replica_tables

_R = replica_tables.replicas

#: A task that one server does at a time: any number, also unlike the one of `schema.migration`.
DEPOT_GARBAGE = 7204136

HEARTBEAT_S = 1.0
#: A server that was not seen for so long is dead: what it has left unfinished is taken over.
DEAD_AFTER_S = 8.0
#: A server that has not been seen itself for so long does not know who else would have been.
_UNBROKEN_S = DEAD_AFTER_S / 2
#: Rows of dead servers are deleted after this time.
FORGET_AFTER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Replica:
    """One server of those that share the registry."""

    id: str
    """Unique to one start of one server."""
    url: str
    """Where the other servers reach it; empty where it is not known."""
    version: str
    """Of loragate."""
    serves: bool = False
    """Whether its engine takes requests."""
    seen_at: datetime | None = None
    """By the database's clock."""


def new_replica(url: str = "", version: str = "") -> Replica:
    """This process, with an id that no other process has."""
    return Replica(uuid4().hex, url, version)


class Membership(DatabasePart):
    """Who lives, by the clock of the database.

    Args:
        database: the registry's.
        own: this server.
        clock: monotonic seconds.
    """

    def __init__(self, database: Database, own: Replica, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(database)
        self.own = own
        self._clock = clock
        self._beaten_at = float("-inf")
        self._unbroken_since = float("inf")

    @property
    def is_shared(self) -> bool:
        """Whether other servers can use the database at the same time."""
        return self._database.engine.dialect.name == "postgresql"

    @property
    def can_judge(self) -> bool:
        """Whether a server that looks dead is dead.

        During and after an outage of the database nobody was seen for long; the others get the time to be seen again.
        """
        if not self.is_shared:
            return True
        now = self._clock()
        return now - self._beaten_at <= _UNBROKEN_S and now - self._unbroken_since >= DEAD_AFTER_S

    async def beat(self, *, serves: bool = False) -> None:
        """Write that this server lives, and whether it serves. Raises: RegistryUnavailable."""
        if not self.is_shared:
            return
        row = {"id": self.own.id, "url": self.own.url, "version": self.own.version}
        told = {"seen_at": sa.func.now(), "serves": serves}
        insert = insert_into(self._database.engine.dialect, _R).values(**row, **told)
        seen = insert.on_conflict_do_update(index_elements=[_R.c.id], set_=told)
        # Also where it seems away: a server that is only slow must not be thought dead.
        async with self._database.call(probing=True) as connection:
            await connection.execute(seen)
        now = self._clock()
        if now - self._beaten_at > _UNBROKEN_S:
            self._unbroken_since = now
        self._beaten_at = now

    async def leave(self) -> None:
        """Write that this server has ended. Raises: RegistryUnavailable."""
        if self.is_shared:
            async with self._database.write() as connection:
                await connection.execute(sa.delete(_R).where(_R.c.id == self.own.id))

    async def live(self) -> tuple[Replica, ...]:
        """This server, and all others that live or may live, by id. Raises: RegistryUnavailable."""
        if not self.is_shared:
            return (self.own,)
        silent_s = seconds_since(_R.c.seen_at).label("silent_s")
        query = sa.select(_R, silent_s).where(_R.c.id != self.own.id)
        async with self._database.read() as connection:
            rows = [dict(row) for row in (await connection.execute(query)).mappings()]
        # NOTE: judged after the answer: the database may have been away since it was asked.
        limit_s = DEAD_AFTER_S if self.can_judge else float("inf")
        others = (Replica(**row) for row in rows if row.pop("silent_s") < limit_s)
        return tuple(sorted((self.own, *others), key=lambda replica: replica.id))

    async def forget(self) -> None:
        """Delete the rows of servers that died long ago. Raises: RegistryUnavailable."""
        if self.is_shared:
            old = seconds_since(_R.c.seen_at) > FORGET_AFTER.total_seconds()
            async with self._database.write() as connection:
                await connection.execute(sa.delete(_R).where(old))

    @asynccontextmanager
    async def leading(self, task: int) -> AsyncIterator[bool]:
        """Whether this server may do a task that only one does at a time; for the length of the block.

        Args:
            task: the number of the task, the same on all servers.

        Raises: RegistryUnavailable.
        """
        if not self.is_shared:
            yield True
            return
        async with self._database.write() as connection:
            yield bool(
                (await connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(task)))).scalar_one()
            )


def seconds_since(moment: sa.ColumnElement[datetime]) -> sa.ColumnElement[float]:
    """Seconds from a column's time to the present, by PostgreSQL's clock."""
    return sa.cast(sa.extract("epoch", sa.func.now() - moment), sa.Float)
