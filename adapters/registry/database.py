"""Connections and transactions, on SQLite (WAL) for a single machine and on PostgreSQL otherwise.

Every change is one transaction that also writes its audit row and increments the registry's revision, so a cache
learns of a change by reading one number.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from adapters.errors import RegistryUnavailable
from adapters.models import Actor
from adapters.registry.outages.driver_errors import translated_errors, unusable_folder, unusable_url
from adapters.registry.schema import tables

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
}
_BUSY_TIMEOUT_S = 15.0
#: Between two tries to set the journal's mode of a new file.
_LOCKED_PAUSE_S = 0.01
#: PostgreSQL: the longest time to connect, and to wait for a connection of the pool.
CONNECT_TIMEOUT_S = 5.0
#: PostgreSQL: the longest time that one statement may take, migrations excepted.
STATEMENT_TIMEOUT_S = 10.0
#: PostgreSQL ends a writing transaction whose server is silent for so long: its locks would block all other servers.
_IDLE_IN_TRANSACTION_MS = 15_000


def utc_now() -> datetime:
    """The present time, with time zone UTC."""
    return datetime.now(UTC)


def connect(url: str, *, statement_timeout_s: float | None = STATEMENT_TIMEOUT_S) -> AsyncEngine:
    """Open a connection pool, which the caller disposes of. For SQLite the file's folder is created.

    A URL without an async driver, such as `sqlite:///x.db` or `postgresql://…`, gets ours.

    Args:
        url: SQLAlchemy URL.
        statement_timeout_s: PostgreSQL: the longest time that one statement may take; None: no limit.

    Raises:
        RegistryUnusable: not a database URL, or the folder of the SQLite file cannot be created.
        StoreFull: the disk of the SQLite file is full.
    """
    try:
        parsed = make_url(url)
        parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
        return _engine(parsed, statement_timeout_s)
    except (sa.exc.ArgumentError, ImportError) as error:
        raise unusable_url() from error
    except OSError as error:
        raise unusable_folder(error) from error


def _engine(parsed: sa.URL, statement_timeout_s: float | None) -> AsyncEngine:
    if parsed.get_backend_name() != "sqlite":
        arguments: dict[str, Any] = {}
        if parsed.get_driver_name() == "asyncpg":
            from adapters.registry.outages.postgres import connect_arguments  # SQLite needs no asyncpg

            arguments = connect_arguments(
                connect_timeout_s=CONNECT_TIMEOUT_S, statement_timeout_s=statement_timeout_s
            )
        return create_async_engine(
            parsed, pool_pre_ping=True, pool_timeout=CONNECT_TIMEOUT_S, connect_args=arguments
        )
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(parsed, connect_args={"timeout": _BUSY_TIMEOUT_S})
    sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    sa.event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late; see _begin_sqlite
    cursor = connection.cursor()
    _use_write_ahead_log(cursor)
    cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged change survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={int(_BUSY_TIMEOUT_S * 1000)}")
    cursor.close()


def _use_write_ahead_log(cursor: Any) -> None:
    """Set the journal's mode; it stays with the file.

    NOTE: when several processes do so first on a new file, SQLite tells some of them at once that it is locked,
    whatever the busy timeout.
    """
    until_s = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until_s:
                raise
        await_only(asyncio.sleep(_LOCKED_PAUSE_S))  # SQLAlchemy runs this beside the event loop


def _begin_sqlite(connection: Connection) -> None:
    # NOTE: a transaction that reads first and writes later fails at once with "database is locked" when another
    # writer committed meanwhile, whatever the busy timeout. So a writing transaction begins as one.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class Database:
    """Transactions on an engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.changes: Counter[str] = Counter()
        """Changes made through this object, by kind (`key`, `alias`, …): caches see them without a query."""
        self.known_away: Callable[[], bool] = lambda: False
        """While it is true, transactions fail at once instead of waiting for a database that does not answer."""
        # SQLite has one writer and the others poll; within one process a lock queues them instead.
        sqlite = engine.dialect.name == "sqlite"
        self._turn: AbstractAsyncContextManager[None] = asyncio.Lock() if sqlite else nullcontext()

    @asynccontextmanager
    async def read(self, *, probing: bool = False) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads; `probing` asks even a database that is known to be away.

        Raises: RegistryUnavailable
        """
        if not probing:
            self._refuse_if_away()
        with translated_errors():
            async with self.engine.connect() as connection, _transaction(connection):
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes; rolled back on any exception, cancellation included.

        Raises: StoreFull, RegistryUnavailable
        """
        self._refuse_if_away()
        with translated_errors():
            async with self._turn, self.engine.connect() as connection:
                await connection.execution_options(writes=True)
                async with _transaction(connection):
                    if self.engine.dialect.name == "postgresql":
                        name, limit = "idle_in_transaction_session_timeout", str(_IDLE_IN_TRANSACTION_MS)
                        await connection.execute(sa.select(sa.func.set_config(name, limit, True)))
                    yield connection

    @asynccontextmanager
    async def call(self, *, probing: bool = False) -> AsyncIterator[AsyncConnection]:
        """For one statement that is a transaction of its own: PostgreSQL is asked once, not four times.

        `probing`: as for `read`.
        Raises: RegistryUnavailable
        """
        if not probing:
            self._refuse_if_away()
        with translated_errors():
            async with self.engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                async with _transaction(connection):
                    yield connection

    @asynccontextmanager
    async def change(
        self, by: Actor, action: str, subject: str, details: Mapping[str, Any] | None = None
    ) -> AsyncIterator[AsyncConnection]:
        """`write()` plus the audit row of the change, in the same transaction.

        `action` is the kind of what is changed, a dot, and the verb: `key.revoke`.
        """
        async with self.write() as connection:
            yield connection
            await finish_change_transaction(connection, by, action, subject, details)
        self.changes[action.partition(".")[0]] += 1

    def _refuse_if_away(self) -> None:
        if self.known_away():
            raise RegistryUnavailable


@asynccontextmanager
async def _transaction(connection: AsyncConnection) -> AsyncIterator[None]:
    """A transaction; a connection with an unanswered statement is closed, because a rollback would wait for it."""
    try:
        transaction = await connection.begin()
        try:
            yield
        except (TimeoutError, asyncio.CancelledError):
            raise
        except BaseException:  # whatever ended the block, nothing of it may be kept
            await transaction.rollback()
            raise
        await transaction.commit()
    except (TimeoutError, asyncio.CancelledError):
        await asyncio.shield(connection.invalidate())
        raise


class DatabasePart:
    """Base of the registry's parts, such as `Tenants` and `Keys`: they share one `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database


def insert_into(dialect: sa.Dialect, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that can handle conflicts; SQLAlchemy has it per dialect only."""
    return (postgresql.insert if dialect.name == "postgresql" else sqlite.insert)(table)


async def finish_change_transaction(
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
