"""Full collections run between requests, and at long intervals on a server that is never idle."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator

import pytest

from server.app import garbage_collection


class Cycle:
    def __init__(self) -> None:
        self.itself = self


class World:
    def __init__(self) -> None:
        self.now_s, self.idle = 0.0, True

    async def passes(self, seconds: float) -> None:
        self.now_s += seconds
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    before = gc.get_threshold()
    world = World()
    running = asyncio.create_task(
        garbage_collection.run_collections(lambda: world.idle, interval_s=0, clock=lambda: world.now_s)
    )
    await world.passes(0)
    assert gc.get_threshold()[:2] == before[:2] and gc.get_threshold()[2] > 1_000_000
    yield world
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert gc.get_threshold() == before


def old_cycle() -> weakref.ref[Cycle]:
    """A cycle that only a full collection finds."""
    cycle = Cycle()
    gc.collect(1)
    return weakref.ref(cycle)


async def test_an_idle_server_collects(world: World) -> None:
    cycle = old_cycle()
    await world.passes(9)
    assert cycle() is not None
    await world.passes(2)
    assert cycle() is None


async def test_a_busy_server_collects_at_long_intervals(world: World) -> None:
    world.idle = False
    cycle = old_cycle()
    await world.passes(590)
    assert cycle() is not None
    await world.passes(20)
    assert cycle() is None
