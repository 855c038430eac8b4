"""The start waits for the database, says so, and gives up with one sentence."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_process import PostgresProcess, postgres_process

from adapters.errors import RegistryUnavailable, RegistryUnusable
from adapters.registry.schema.migration import current_revision, head_revision
from server.app.database import open_database, registry_of, retrying
from server.config.settings import Settings, load


def settings(url: str, wait_s: float) -> Settings:
    return load({"demo": True, "database_url": url, "wait_for_database_s": wait_s})


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresProcess]:
    with postgres_process() as server:
        yield server


@pytest.mark.slow
async def test_a_database_that_comes_later_is_waited_for(
    postgres: PostgresProcess, caplog: pytest.LogCaptureFixture
) -> None:
    url = postgres.create("later")
    postgres.stop()
    tries = 0

    async def open_after_three() -> str | None:
        nonlocal tries
        tries += 1
        if tries == 3:
            postgres.start()
        async with open_database(settings(url, 0)) as engine:
            return await current_revision(engine)

    assert await retrying(30, open_after_three) == head_revision()
    told = [record.message for record in caplog.records if "the start waits for another" in record.message]
    assert len(told) == 1, "not at every try"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["nobody listens", "frozen"])
async def test_it_gives_up_with_one_sentence(postgres: PostgresProcess, how: str) -> None:
    url = (
        "postgresql://user:secret@127.0.0.1:1/name" if how == "nobody listens" else postgres.create("frozen")
    )
    if how == "frozen":
        postgres.freeze()
    began = time.monotonic()
    try:
        with pytest.raises(
            RegistryUnavailable, match="did not answer within --wait-for-database-s 1; start the"
        ):
            async with open_database(settings(url, 1)):
                pass
    finally:
        postgres.thaw()
    assert 1 <= time.monotonic() - began < 10


async def test_what_waiting_does_not_help_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    path.write_bytes(b"no database" * 1000)
    began = time.monotonic()
    with pytest.raises(RegistryUnusable, match="damaged"):
        async with open_database(settings(f"sqlite:///{path}", 60)):
            pass
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8123"),
        ("::1", "http://[::1]:8123"),
        ("0.0.0.0", f"http://{socket.gethostname()}:8123"),
    ],
)
async def test_other_servers_learn_where_this_one_listens(sqlite_url: str, host: str, url: str) -> None:
    chosen = load({"model": "m", "database_url": sqlite_url, "host": host, "port": 8123})
    async with open_database(chosen) as engine:
        assert registry_of(engine, chosen).membership.own.url == url
