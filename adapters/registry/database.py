"""Connections and transactions, on SQLite (WAL) for a single machine and on PostgreSQL otherwise.

Every change is one transaction that also writes its audit row and increments the registry's revision, so a cache
learns of a change by reading one number.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from adapters.errors import RegistryUnavailable, StoreFull
from adapters.models import Actor
from adapters.registry.schema import tables

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
}
_BUSY_TIMEOUT_S = 15.0


def utc_now() -> datetime:
    """The present time, with time zone UTC."""
    return datetime.now(UTC)


def connect(url: str) -> AsyncEngine:
    """Open a connection pool, which the caller disposes of. For SQLite the file's folder is created.

    A URL without an async driver, such as `sqlite:///x.db` or `postgresql://…`, gets ours.

    Raises: sqlalchemy.exc.ArgumentError: not a database URL.
    """
    parsed = make_url(url)
    parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
    if parsed.get_backend_name() != "sqlite":
        return create_async_engine(parsed, pool_pre_ping=True)
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(parsed, connect_args={"timeout": _BUSY_TIMEOUT_S})
    sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    sa.event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late; see _begin_sqlite
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged change survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={int(_BUSY_TIMEOUT_S * 1000)}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # NOTE: a transaction that reads first and writes later fails at once with "database is locked" when another
    # writer committed meanwhile, whatever the busy timeout. So a writing transaction begins as one.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class Database:
    """Transactions on an engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.changes = 0  # made through this object, so that caches see them without a query
        # SQLite has one writer and the others poll; within one process a lock queues them instead.
        sqlite = engine.dialect.name == "sqlite"
        self._turn: AbstractAsyncContextManager[None] = asyncio.Lock() if sqlite else nullcontext()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads. Raises: RegistryUnavailable."""
        with _translate_errors():
            async with self._connection() as connection, connection.begin():
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes; rolled back on any exception, cancellation included.

        Raises: StoreFull, RegistryUnavailable
        """
        with _translate_errors():
            async with self._turn, self._connection() as connection:
                await connection.execution_options(writes=True)
                async with connection.begin():
                    yield connection

    @asynccontextmanager
    async def change(
        self, by: Actor, action: str, subject: str, details: Mapping[str, Any] | None = None
    ) -> AsyncIterator[AsyncConnection]:
        """`write()` plus the audit row of the change, in the same transaction."""
        async with self.write() as connection:
            yield connection
            await record_change(connection, by, action, subject, details)
        self.changes += 1

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(self.engine.connect())
            except (OSError, sa.exc.TimeoutError) as error:  # asyncpg raises the socket's own error
                raise RegistryUnavailable from error
            yield connection


class DatabasePart:
    """Base of the registry's parts, such as `Tenants` and `Keys`: they share one `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Turn the database driver's errors into ours, except errors of the statement itself."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        # SQLite: SQLITE_FULL; PostgreSQL: SQLSTATE 53100
        if "disk is full" in str(error.orig) or getattr(error.orig, "sqlstate", None) == "53100":
            raise StoreFull(
                "The disk that holds the registry is full; make room on it, then try again."
            ) from error
        if error.connection_invalidated or isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
            raise RegistryUnavailable from error
        raise


def insert_into(dialect: sa.Dialect, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that can handle conflicts; SQLAlchemy has it per dialect only."""
    return (postgresql.insert if dialect.name == "postgresql" else sqlite.insert)(table)


async def record_change(
    connection: AsyncConnection, by: Actor, action: str, subject: str, details: Mapping[str, Any] | None
) -> None:
    """The last statements of a change: its audit row and the next revision.

    The counter's row stays locked until the commit, so revisions become visible in order.
    """
    row = {"actor": by.name, "key_id": by.key_id, "action": action, "subject": subject}
    await connection.execute(sa.insert(tables.audit).values(at=utc_now(), details=dict(details or {}), **row))
    await count_up(connection, "revision")


async def count_up(connection: AsyncConnection, counter: str) -> int:
    """Increment a counter and return its value; a value is never returned twice, whatever is deleted."""
    row = tables.counters
    bump = sa.update(row).where(row.c.name == counter).values(value=row.c.value + 1).returning(row.c.value)
    return int((await connection.execute(bump)).scalar_one())
