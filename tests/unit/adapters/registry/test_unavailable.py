"""A database that is away, or goes away: one error of ours, which names no address."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from adapters.errors import RegistryUnavailable
from adapters.registry import Registry, connect
from adapters.registry.database import Database


async def test_nobody_listens() -> None:
    engine = connect("postgresql://reader@127.0.0.1:1/loragate")
    for transaction in (Database(engine).read(), Database(engine).write()):
        with pytest.raises(RegistryUnavailable) as raised:
            async with transaction:
                pass
        assert "127.0.0.1" not in str(raised.value)
    await engine.dispose()


async def test_the_connection_is_cut_in_a_transaction_and_the_next_one_works(
    postgres_registry: Registry,
) -> None:
    database = postgres_registry._database
    with pytest.raises(RegistryUnavailable):
        async with database.write() as connection:
            await connection.execute(sa.text("select pg_terminate_backend(pg_backend_pid())"))
    assert await postgres_registry.tenants.list() is not None


async def test_an_error_of_the_statement_stays_what_it_is(postgres_registry: Registry) -> None:
    with pytest.raises(sa.exc.ProgrammingError):
        async with postgres_registry._database.read() as connection:
            await connection.execute(sa.text("select nothing from nowhere"))
