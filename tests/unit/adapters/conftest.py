"""A migrated database on SQLite and on a real PostgreSQL; every test gets its own copy."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.models import Actor, Tenant
from adapters.registry import Registry, connect, migrate
from adapters.registry.schema import tables

BY = Actor("test", "k_test")


def postgres_binaries() -> Path | None:
    """The newest of Debian's PostgreSQL servers, or whichever is on PATH."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[4].split(".")[0])
    )
    on_path = shutil.which("postgres")
    return found[-1].parent if found else (Path(on_path).parent if on_path else None)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG: no server outlives a killed pytest


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests kill processes, not machines; waiting for a busy disk would be most of their time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[str]:
    """The socket folder of a PostgreSQL server that this session started; user `postgres`, no password."""
    binaries = postgres_binaries()
    if binaries is None:
        message = "PostgreSQL is not installed: apt-get install postgresql"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="lg-pg-"))  # short: a socket's path has at most 107 characters
    if user:
        shutil.chown(folder, user, user)
    data = folder / "data"
    initdb = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(initdb, check=True, user=user, group=user, cwd=folder, stdout=subprocess.DEVNULL)
    flags = {
        "listen_addresses": "",
        "unix_socket_directories": folder,
        "fsync": "off",
        "max_connections": "200",
    }
    options = [part for key, value in flags.items() for part in ("-c", f"{key}={value}")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, *options],
            user=user,
            group=user,
            cwd=folder,
            stdout=log,
            stderr=log,
            preexec_fn=_die_with_parent,
        )
    try:
        _wait_until_ready(server, folder, binaries)
        yield str(folder)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
        shutil.rmtree(folder)


def _wait_until_ready(server: subprocess.Popen[bytes], folder: Path, binaries: Path) -> None:
    deadline = time.monotonic() + 30
    probe = [binaries / "pg_isready", "-q", "-h", folder]
    while subprocess.run(probe, check=False).returncode:
        assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.05)


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


@pytest.fixture(scope="session")
async def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("registry") / "migrated.db"
    await migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/deep/er/empty.db"


@pytest.fixture
async def empty_postgres_url(postgres_socket: str) -> str:
    return await _create(postgres_socket, f"t{uuid.uuid4().hex}")


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    shutil.copy(migrated_sqlite, tmp_path / "registry.db")
    return f"sqlite:///{tmp_path}/registry.db"


@pytest.fixture
async def postgres_url(migrated_postgres: str) -> str:
    return await _create(migrated_postgres, f"t{uuid.uuid4().hex}", "migrated")


# Not async: an async fixture cannot ask for another one by name.
@pytest.fixture(params=["empty_sqlite_url", "empty_postgres_url"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """A database without tables."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["sqlite_url", "postgres_url"])
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
    names = ", ".join(table.name for table in tables.metadata.sorted_tables if table.name != "counters")
    async with postgres_engine.begin() as connection:
        await connection.execute(sa.text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
    return await _furnish(postgres_engine)


@pytest.fixture
async def sqlite_registry(sqlite_url: str) -> AsyncIterator[Registry]:
    engine = connect(sqlite_url)
    sa.event.listen(engine.sync_engine, "connect", lambda c, _: c.execute("PRAGMA synchronous=OFF").close())
    yield await _furnish(engine)
    await engine.dispose()


@pytest.fixture(params=["sqlite_registry", "postgres_registry"])
def registry(request: pytest.FixtureRequest) -> Registry:
    """A registry with the tenants `acme` and `globex`; the base model is called `tiny-base`."""
    return request.getfixturevalue(request.param)


async def _furnish(engine: AsyncEngine) -> Registry:
    registry = Registry(engine, reserved_names={"tiny-base"})
    for name in ("acme", "globex"):
        await registry.tenants.add(Tenant(name), by=BY)
    return registry
