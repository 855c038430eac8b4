"""/admin/v1/cluster of one server, and what it does when it is to drain."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.unit.server.app.composed import Composed, compose


@pytest.fixture(scope="module")
async def composed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Composed]:
    async with compose(tmp_path_factory.mktemp("cluster"), replica_token="t") as composed:
        yield composed


@pytest.fixture
def signals() -> Iterator[list[int]]:
    """The SIGTERMs that the process gets."""
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


async def listed(composed: Composed) -> dict[str, Any]:
    (server,) = (await composed.make("GET", "/admin/v1/cluster"))["data"]
    return dict(server)


async def test_a_server_tells_what_it_holds_and_how_busy_it_is(composed: Composed) -> None:
    (known,) = (await composed.make("GET", "/admin/v1/servers"))["data"]
    server = await listed(composed)
    assert server["id"] == server["server"] == known["id"] and server["version"] == known["version"]
    assert (server["state"], server["in_flight"], server["waiting"]) == ("ready", 0, 0)
    assert server["slots"] and server["computing"] == [] and isinstance(server["held"], list)


async def test_only_the_server_that_is_named_drains_and_only_once(
    composed: Composed, signals: list[int]
) -> None:
    own = (await listed(composed))["id"]
    other = await composed.ask("POST", "/admin/v1/cluster/other/drain", "demo-admin")
    assert other.status_code == 404 and signals == []
    asked = (composed.ask("POST", f"/admin/v1/cluster/{own}/drain", "demo-admin") for _ in range(3))
    for answer in await asyncio.gather(*asked):  # all before the process has begun to leave
        assert (answer.status_code, answer.json()) == (202, {"id": own, "in_flight": 0})
    assert signals == [signal.SIGTERM]
    (entry, *_) = (await composed.make("GET", "/admin/v1/audit", params={"action": "server.drain"}))["data"]
    assert entry["subject"] == own
    composed.server.readiness.leaving = True  # as the process does at the signal
    again = await composed.ask("POST", f"/admin/v1/cluster/{own}/drain", "demo-admin")
    assert again.status_code == 202 and len(signals) == 1, "a second signal would cut running answers"
    assert (await listed(composed))["state"] == "draining"
