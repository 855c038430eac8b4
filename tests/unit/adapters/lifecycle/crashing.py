"""Run as a program: kill a process at random points of add, promote and remove; recover; check; again.

Everything is imported once, then each round forks: a worker that is killed with SIGKILL, and a checker.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from adapters.artifact import inspect_artifact
from adapters.errors import AdapterError
from adapters.models import Tenant, VersionState
from adapters.registry import Registry, connect, migrate
from adapters.registry.state_machine import ENDED
from tests.unit.adapters.building import BASE
from tests.unit.adapters.lifecycle.support import BY, Plant, build_plant


async def with_plant(url: str, folder: Path, work: Callable[[Plant], Awaitable[None]]) -> None:
    engine = connect(url)
    plant = build_plant(Registry(engine), folder)
    await work(plant)
    await plant.lifecycle.aclose()
    await plant.residency.aclose()
    await engine.dispose()


async def live(plant: Plant) -> None:
    """Add, promote, split, roll back and remove without end."""
    await plant.lifecycle.recover()
    chance = random.Random(os.getpid())

    async def one() -> None:
        while True:
            with suppress(AdapterError):
                adapter = chance.choice(["support", "tools"])
                number = await plant.add(chance.randrange(3), adapter)
                await plant.lifecycle.promote("acme", adapter, number, by=BY)
                if chance.random() < 0.3:
                    await plant.lifecycle.rollback("acme", adapter, by=BY)
                if number > 1:
                    await plant.lifecycle.remove("acme", adapter, number - 1, by=BY)
                if chance.random() < 0.1:
                    await plant.lifecycle.remove("acme", adapter, by=BY)

    await asyncio.gather(one(), one())


async def check(plant: Plant) -> None:
    """Registry, store and engine agree, and nothing half-made is visible."""
    await plant.lifecycle.recover(deep=True)
    store = plant.folder / "store"
    views = await plant.registry.adapters.list(ended=True)
    versions = [version for view in views for version in view.versions]
    assert all(version.state is VersionState.READY or version.state in ENDED for version in versions), (
        versions
    )
    ready = {(v.public_name, v.number): v for v in versions if v.state is VersionState.READY}
    assert {v.digest for v in ready.values()} == {path.name for path in (store / "sha256").iterdir()}
    assert not list((store / "staging").iterdir())
    for view in views:
        for target in view.alias.targets:
            assert (view.adapter.public_name, target.number) in ready, (view.alias, versions)
        assert view.adapter.removed_at is None or not view.alias.targets
    for version in ready.values():
        inspect_artifact(plant.lifecycle.loading.engine_adapter(version).path, base=BASE, max_lora_rank=16)
        async with plant.lifecycle.loading.hold(version):
            assert version.engine_id in plant.loader.ids
    ids = [version.engine_id for version in versions]
    assert len(set(ids)) == len(ids)
    assert not await plant.residency.reconcile()


def fork(url: str, folder: Path, work: Callable[[Plant], Awaitable[None]]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            asyncio.run(with_plant(url, folder, work))
            status = 0
        except BaseException:  # noqa: BLE001  (a fork must not return)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return pid


async def prepare(url: str) -> None:
    await migrate(url)
    engine = connect(url)
    await Registry(engine).tenants.add(Tenant("acme"), by=BY)
    await engine.dispose()


def main(url: str, folder: Path, rounds: int, seed: int) -> None:
    asyncio.run(prepare(url))
    chance = random.Random(seed)
    for number in range(rounds):
        pid = fork(url, folder, live)
        time.sleep(chance.uniform(0.05, 0.5))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        pid = fork(url, folder, check)
        assert os.waitpid(pid, 0)[1] == 0, f"round {number} of seed {seed}"
    print(f"{rounds} kills survived")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
