"""Evaluations on two servers with one PostgreSQL: each runs once, and one whose server ends is not lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from postgres_process import postgres_process

import demo
from adapters.registry import migrate
from adapters.registry.figures.evaluations import LOST
from server.background.evaluations import data_files, service
from tests.unit.server.app.composed import Composed, compose
from tests.unit.server.background.evaluations.stand_in import ADAPTER, FakeVllm, attach, begin, ended

pytestmark = [pytest.mark.slow, pytest.mark.postgres]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres_process() as process:
        yield f"postgresql+asyncpg://postgres@/postgres?host={process.folder}"


@asynccontextmanager
async def server(folder: Path, name: str, database: str, vllm: FakeVllm) -> AsyncIterator[Composed]:
    depot = f"file://{folder / 'depot'}"
    async with compose(folder / name, database_url=database, depot=depot) as composed:
        attach(composed, vllm)
        yield composed


@pytest.fixture
async def tenant(database: str) -> None:
    await migrate(database)


async def begun_in_part(composed: Composed, vllm: FakeVllm) -> dict[str, Any]:
    """An evaluation that waits for the engine in its second slice."""
    vllm.pauses_after = 2 * data_files._SLICE_LINES
    begun = await begin(composed, 1)
    while begun["done"] < data_files._SLICE_LINES:
        await asyncio.sleep(0.001)
        begun = await composed.make("GET", f"{ADAPTER}/evaluations/{begun['id']}")
    return begun


async def test_one_runs_once_and_another_server_goes_on_where_the_first_one_ended(
    tmp_path: Path, database: str, tenant: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LOST_AFTER_S", 0.0)
    first, second = FakeVllm.with_answers(), FakeVllm.with_answers()
    async with server(tmp_path, "b", database, second) as other:
        async with server(tmp_path, "a", database, first) as one:
            body = {"source": str(demo.ADAPTERS["acme-support"].path)}
            await one.make("POST", f"{ADAPTER}/versions", json=body)
            begun = await begun_in_part(one, first)
            beside = await begin(other, 1)
            assert (beside["id"], beside["state"]) == (begun["id"], "running")
            await other.server.evaluations.resume()
            await other.server.evaluations.end_lost()
            assert second.asked == [], "it runs on one server"
        await other.server.evaluations.end_lost()
        lost = await other.make("GET", f"{ADAPTER}/evaluations/{begun['id']}")
        assert (lost["state"], lost["error"]) == ("failed", LOST)
        again = await ended(other, await begin(other, 1))
        assert (again["id"], again["state"], again["figures"]["exact"]) == (begun["id"], "finished", 1.0)
        assert 0 < len(second.asked) <= 2 * (20 - data_files._SLICE_LINES), "only the turns that were left"
        asked = len(first.asked)
        async with server(tmp_path, "a", database, first) as one:
            assert not list((one.server.settings.home / "evaluations").iterdir())
            assert len(first.asked) == asked


async def test_a_server_that_comes_back_goes_on_with_what_others_thought_lost(
    tmp_path: Path, database: str, tenant: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LOST_AFTER_S", 0.0)
    first, second = FakeVllm.with_answers(), FakeVllm.with_answers()
    async with server(tmp_path, "b", database, second) as other:
        async with server(tmp_path, "a", database, first) as one:
            body = {"source": str(demo.ADAPTERS["acme-support"].path)}
            await one.make("POST", f"{ADAPTER}/versions", json=body)
            begun = await begun_in_part(one, first)
        await other.server.evaluations.end_lost()
        first.pauses_after = 0
        first.pause.set()
        async with server(tmp_path, "a", database, first) as one:
            assert (await ended(one, begun | {"state": "running"}))["id"] == begun["id"]
            while (found := await other.make("GET", f"{ADAPTER}/evaluations/{begun['id']}"))[
                "state"
            ] == "failed":
                await asyncio.sleep(0.005)
            found = await ended(other, found)
            assert (found["state"], found["figures"]["exact"], found["error"]) == ("finished", 1.0, None)
        assert second.asked == []
