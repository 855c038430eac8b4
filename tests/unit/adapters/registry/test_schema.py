from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from adapters.errors import SchemaMismatch
from adapters.registry import Registry, check_schema, connect, migrate
from adapters.registry.database import Database
from adapters.registry.schema import migration as schema
from adapters.registry.schema import tables
from adapters.registry.schema.migration import current_revision, head_revision


async def test_migrate_makes_an_empty_database_and_is_idempotent(empty_url: str) -> None:
    engine = connect(empty_url)
    with pytest.raises(SchemaMismatch, match="has no tables yet; run `loragate migrate`"):
        await check_schema(engine)
    assert await current_revision(engine) is None
    assert await migrate(empty_url) == head_revision()
    await check_schema(engine)
    assert await migrate(empty_url) == head_revision()
    await engine.dispose()


async def test_two_processes_may_migrate_at_once(empty_url: str) -> None:
    assert set(await asyncio.gather(*(migrate(empty_url) for _ in range(4)))) == {head_revision()}


async def test_the_migrations_make_exactly_the_tables(database_url: str) -> None:
    engine = connect(database_url)

    def differences(connection: sa.Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, tables.metadata)

    async with Database(engine).read() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_a_newer_schema_is_refused(database_url: str) -> None:
    engine = connect(database_url)
    async with Database(engine).write() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        await connection.execute(sa.text("DELETE FROM counters WHERE name = 'compatible_from'"))
    with pytest.raises(SchemaMismatch, match="revision 9999, which is newer than this release"):
        await check_schema(engine)
    with pytest.raises(SchemaMismatch, match="newer"):
        await migrate(database_url)
    await engine.dispose()


@pytest.mark.parametrize(("compatible_from", "is_usable"), [("0", True), (None, True), ("9998", False)])
async def test_a_newer_schema_says_whether_this_release_can_use_it(
    database_url: str, compatible_from: str | None, is_usable: bool
) -> None:
    """While servers are replaced one by one, those of the old release run, and restart, on the new schema."""
    engine = connect(database_url)
    async with Database(engine).write() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        if compatible_from is not None:
            value = int(compatible_from)
            await connection.execute(
                sa.text("UPDATE counters SET value = :value WHERE name = 'compatible_from'"), {"value": value}
            )
    if is_usable:
        await check_schema(engine)
    else:
        with pytest.raises(SchemaMismatch, match="newer than this release"):
            await check_schema(engine)
    await engine.dispose()


async def test_a_failed_migration_leaves_nothing(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade = schema._upgrade

    def break_after(connection: sa.Connection, revision: str) -> None:
        upgrade(connection, revision)
        raise KeyboardInterrupt

    monkeypatch.setattr(schema, "_upgrade", break_after)
    with pytest.raises(KeyboardInterrupt):
        await migrate(empty_url)
    engine = connect(empty_url)
    assert await current_revision(engine) is None
    await engine.dispose()


async def test_an_older_schema_is_refused_and_brought_up_to_date(empty_url: str) -> None:
    engine = connect(empty_url)
    async with Database(engine).write() as connection:
        await connection.run_sync(lambda sync: schema._upgrade(sync, "0001"))
    with pytest.raises(
        SchemaMismatch, match=f"is at revision 0001, older than {head_revision()}; run `loragate migrate`"
    ):
        await check_schema(engine)
    assert await migrate(empty_url) == head_revision()
    await check_schema(engine)
    assert await Registry(engine).audit.revision() == 0
    await engine.dispose()


async def test_a_file_that_is_locked_while_its_journal_is_set_is_waited_for_beside_the_event_loop(
    tmp_path: Path,
) -> None:
    path = tmp_path / "registry.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        opening = asyncio.create_task(migrate(f"sqlite:///{path}"))
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert not opening.done()
        other.execute("ROLLBACK")
    assert await asyncio.wait_for(opening, 30) == head_revision()
