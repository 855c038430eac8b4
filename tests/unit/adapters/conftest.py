"""A migrated database on SQLite and on a real PostgreSQL; every test gets its own copy."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from postgres_process import postgres_process
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.models import Actor, Tenant
from adapters.registry import Registry, connect, migrate
from adapters.registry.schema import tables

BY = Actor("test", "k_test")


def both(sqlite: str, postgres: str) -> list[Any]:
    """The two fixtures as parameters; `make test-fast` leaves the second one out."""
    return [sqlite, pytest.param(postgres, marks=pytest.mark.postgres)]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests kill processes, not machines; waiting for a busy disk would be most of their time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[str]:
    """The socket folder of a PostgreSQL server that this session started; user `postgres`, no password."""
    with postgres_process() as server:
        yield str(server.folder)


async def _create(socket: str, database: str, template: str = "template1") -> str:
    admin = await asyncpg.connect(host=socket, user="postgres", database="postgres")
    try:
        await admin.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
    finally:
        await admin.close()
    return f"postgresql://postgres@/{database}?host={socket}"


@pytest.fixture(scope="session")
async def migrated_postgres(postgres_socket: str) -> str:
    await migrate(await _create(postgres_socket, "migrated"))
    return postgres_socket


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/deep/er/empty.db"


@pytest.fixture
async def empty_postgres_url(postgres_socket: str) -> str:
    return await _create(postgres_socket, f"t{uuid.uuid4().hex}")


@pytest.fixture
async def postgres_url(migrated_postgres: str) -> str:
    return await _create(migrated_postgres, f"t{uuid.uuid4().hex}", "migrated")


# Not async: an async fixture cannot ask for another one by name.
@pytest.fixture(params=both("empty_sqlite_url", "empty_postgres_url"))
def empty_url(request: pytest.FixtureRequest) -> str:
    """A database without tables."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=both("sqlite_url", "postgres_url"))
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database of the test's own."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
async def postgres_engine(postgres_socket: str) -> AsyncIterator[AsyncEngine]:
    """One database for all tests that need no other: emptying it is quicker than making another."""
    url = await _create(postgres_socket, "shared")
    await migrate(url)
    engine = connect(url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def postgres_registry(postgres_engine: AsyncEngine) -> Registry:
    names = [table.name for table in reversed(tables.metadata.sorted_tables) if table.name != "counters"]
    # TRUNCATE makes new files for every table and index; these tables have few rows.
    emptied = "".join(f"DELETE FROM {name}; " for name in names)
    restarted = "PERFORM setval(format('%I', sequencename)::regclass, 1, false) FROM pg_sequences"
    async with postgres_engine.begin() as connection:
        await connection.execute(sa.text(f"DO $$ BEGIN {emptied}{restarted}; END $$"))
    return await _furnish(postgres_engine)


@pytest.fixture(scope="session")
async def sqlite_engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncEngine:
    """One engine for all tests: it keeps the statements that it has compiled. Each test finds another file there."""
    engine = connect(f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/registry.db")
    sa.event.listen(engine.sync_engine, "connect", lambda c, _: c.execute("PRAGMA synchronous=OFF").close())
    return engine


@pytest.fixture
async def sqlite_registry(sqlite_engine: AsyncEngine, migrated_sqlite: Path) -> AsyncIterator[Registry]:
    path = Path(str(sqlite_engine.url.database))
    shutil.copy(migrated_sqlite, path)
    yield await _furnish(sqlite_engine)
    await sqlite_engine.dispose()
    for file in path.parent.iterdir():
        file.unlink()


@pytest.fixture(params=both("sqlite_registry", "postgres_registry"))
def registry(request: pytest.FixtureRequest) -> Registry:
    """A registry with the tenants `acme` and `globex`; the base model is called `tiny-base`."""
    return request.getfixturevalue(request.param)


async def _furnish(engine: AsyncEngine) -> Registry:
    registry = Registry(engine, reserved_names={"tiny-base"})
    for name in ("acme", "globex"):
        await registry.tenants.add(Tenant(name), by=BY)
    return registry
