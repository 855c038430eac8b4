"""Work in real processes: turns, time, memory, crashes, callers that leave."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from server.engine.workers.errors import WorkerDied, WorkRefused, WorkTimedOut
from server.engine.workers.pool import WorkerPool

pytestmark = pytest.mark.slow  # every test starts processes


def add(a: int, b: int) -> int:
    return a + b


def write_pid_and_spin(file: str) -> None:
    Path(file).write_text(str(os.getpid()), encoding="ascii")
    while True:
        pass


def fail(text: str) -> None:
    raise ValueError(text)


class Odd(Exception):
    """Cannot be rebuilt from its arguments."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def fail_oddly() -> None:
    raise Odd(1, 2)


def crash() -> None:
    os.kill(os.getpid(), 11)


def allocate(mib: int) -> int:
    return len(bytearray(mib << 20))


def pid() -> int:
    return os.getpid()


def nap(seconds: float) -> float:
    began = time.monotonic()
    time.sleep(seconds)
    return began


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[WorkerPool]:
    made = WorkerPool(workers=3, spare=1, waiting_per_tenant=4, memory_bytes=256 << 20)
    yield made
    await made.close()


async def pid_in(file: Path) -> int:
    while not (file.exists() and file.read_text(encoding="ascii")):
        await asyncio.sleep(0.01)
    return int(file.read_text(encoding="ascii"))


async def until_gone(process_id: int) -> None:
    async with asyncio.timeout(10):
        while psutil.pid_exists(process_id) and psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)


async def test_results_and_errors_come_back_and_the_worker_stays(pool: WorkerPool) -> None:
    assert await pool.run("a", add, 1, 2, limit_s=60) == 3
    process_id = await pool.run("a", pid, limit_s=60)
    with pytest.raises(ValueError, match="not so"):
        await pool.run("a", fail, "not so", limit_s=60)
    with pytest.raises(RuntimeError, match="Odd: 1 and 2"):
        await pool.run("a", fail_oddly, limit_s=60)
    assert await pool.run("b", pid, limit_s=60) == process_id
    assert (pool.running, pool.waiting) == (0, 0)


async def test_time_is_bounded_truly(pool: WorkerPool, tmp_path: Path) -> None:
    process_id = await pool.run("a", pid, limit_s=60)
    with pytest.raises(WorkTimedOut) as error:
        await pool.run("a", write_pid_and_spin, str(tmp_path / "pid"), limit_s=0.5)
    assert error.value.limit_s == 0.5
    await until_gone(process_id)
    assert await pool.run("a", add, 1, 2, limit_s=60) == 3


async def test_work_ends_when_its_caller_leaves(pool: WorkerPool, tmp_path: Path) -> None:
    working = asyncio.create_task(pool.run("a", write_pid_and_spin, str(tmp_path / "pid"), limit_s=60))
    process_id = await pid_in(tmp_path / "pid")
    waiting = asyncio.create_task(pool.run("a", add, 1, 2, limit_s=60))
    left = asyncio.create_task(pool.run("a", add, 5, 6, limit_s=60))
    await asyncio.sleep(0.05)
    assert pool.waiting == 2
    left.cancel()
    working.cancel()
    for task in (left, working):
        with pytest.raises(asyncio.CancelledError):
            await task
    await until_gone(process_id)
    assert await waiting == 3
    assert (pool.running, pool.waiting) == (0, 0)


async def test_a_caller_that_leaves_at_the_start_leaves_nothing_behind(pool: WorkerPool) -> None:
    early = asyncio.create_task(pool.run("a", add, 1, 2, limit_s=60))
    await asyncio.sleep(0)
    early.cancel()
    with pytest.raises(asyncio.CancelledError):
        await early
    assert (pool.running, pool.waiting) == (0, 0)
    assert await pool.run("a", add, 2, 2, limit_s=60) == 4


async def test_crash_and_memory_are_the_jobs_own(pool: WorkerPool) -> None:
    with pytest.raises(WorkerDied):
        await pool.run("a", crash, limit_s=60)
    with pytest.raises(WorkerDied) as error:
        await pool.run("a", allocate, 512, limit_s=60)
    assert error.value.memory_bytes == 256 << 20
    assert await pool.run("a", allocate, 32, limit_s=60) == 32 << 20


async def test_one_tenant_does_not_wait_for_another(pool: WorkerPool, tmp_path: Path) -> None:
    spinning = [
        asyncio.create_task(pool.run(name, write_pid_and_spin, str(tmp_path / name), limit_s=60))
        for name in ("a", "a", "b")
    ]
    for name in ("a", "b"):
        await pid_in(tmp_path / name)
    assert (pool.running, pool.waiting) == (2, 1)
    assert await pool.run("c", add, 1, 2, limit_s=60) == 3
    for task in spinning:
        task.cancel()
    await asyncio.gather(*spinning, return_exceptions=True)


async def test_a_tenants_queue_is_bounded(pool: WorkerPool) -> None:
    jobs = [asyncio.create_task(pool.run("a", nap, 0.05, limit_s=60)) for _ in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(WorkRefused):
        await pool.run("a", nap, 0.05, limit_s=60)
    began = await asyncio.gather(*jobs)
    assert began == sorted(began)


async def test_closing_ends_running_work_and_leaves_no_process(tmp_path: Path) -> None:
    pool = WorkerPool(workers=2, spare=1)
    working = asyncio.create_task(pool.run("a", write_pid_and_spin, str(tmp_path / "pid"), limit_s=60))
    process_id = await pid_in(tmp_path / "pid")
    await pool.close()
    with pytest.raises(WorkerDied):
        await working
    await until_gone(process_id)


def broken_setup() -> None:
    raise RuntimeError("no such file")


async def test_a_setup_that_fails_is_reported() -> None:
    pool = WorkerPool(broken_setup, workers=1, spare=1)
    with pytest.raises(WorkerDied):
        await pool.run("a", add, 1, 2, limit_s=60)
    await pool.close()
