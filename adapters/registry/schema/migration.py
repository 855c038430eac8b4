"""The schema's revision: `migrate` brings it up to date, `check_schema` checks it."""

from __future__ import annotations

import functools
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.errors import SchemaMismatch
from adapters.registry.database import Database, connect

_LOCK_ID = 7204135  # any number: two migrations of one PostgreSQL database wait for each other


async def migrate(url: str) -> str:
    """Bring the database to this release's schema, also an empty one; returns the revision.

    Each migration runs in one transaction; two processes that migrate at once wait for each other.
    Raises: SchemaMismatch: the database is newer than this release; StoreFull, RegistryUnavailable.
    """
    engine = connect(url, statement_timeout_s=None)
    try:
        async with Database(engine).write() as connection:
            if engine.dialect.name == "postgresql":
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_ID)))
            found = await connection.run_sync(_current)
            _refuse_unknown(found)
            await connection.run_sync(_upgrade, "head")
    finally:
        await engine.dispose()
    return head_revision()


async def check_schema(engine: AsyncEngine) -> None:
    """Check that this release can use the schema: its own, or a newer one that says so.

    So servers of two releases run beside each other while they are replaced one by one.
    Raises: SchemaMismatch: it is older, missing, or newer and incompatible.
    """
    found = await current_revision(engine)
    if found == head_revision() or (found is not None and await _is_compatible(engine, found)):
        return
    _refuse_unknown(found)
    state = "has no tables yet" if found is None else f"is at revision {found}, older than {head_revision()}"
    raise SchemaMismatch(f"The database {state}; run `loragate migrate` (back it up first) and start again.")


async def current_revision(engine: AsyncEngine) -> str | None:
    """The schema's revision; None: no tables yet."""
    async with Database(engine).read() as connection:
        return await connection.run_sync(_current)


async def _is_compatible(engine: AsyncEngine, found: str) -> bool:
    """Whether a newer schema allows programs of this release."""
    if found in _known_revisions():
        return False
    query = sa.text("SELECT value FROM counters WHERE name = 'compatible_from'")
    async with Database(engine).read() as connection:
        compatible_from = (await connection.execute(query)).scalar_one_or_none()
    return compatible_from is not None and int(compatible_from) <= int(head_revision())


@functools.cache
def _scripts() -> ScriptDirectory:
    """The migrations of this release; reading them takes 15 ms, and every command asks for the newest."""
    return ScriptDirectory.from_config(_config())


def head_revision() -> str:
    """The revision of this release."""
    head = _scripts().get_current_head()
    assert head is not None
    return head


def _known_revisions() -> set[str]:
    return {script.revision for script in _scripts().walk_revisions()}


def _refuse_unknown(found: str | None) -> None:
    if found is not None and found not in _known_revisions():
        raise SchemaMismatch(
            f"The database is at revision {found}, which is newer than this release ({head_revision()}); "
            "install the release that made it, or restore the backup from before its `loragate migrate`."
        )


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _upgrade(connection: Connection, revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
