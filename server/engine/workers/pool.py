"""A pool of worker processes, shared out fairly between tenants.

For work whose cost grows with a tenant's input. Each tenant may have `per_tenant` jobs running and a bounded number
waiting; tenants take turns; a job ends when its time is up or its caller leaves, and truly so: its process is killed.
Workers are started when they are needed and kept while `spare` or fewer are idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from server.engine.workers.errors import WorkerDied, WorkTimedOut
from server.engine.workers.job_queue import JobQueue
from server.engine.workers.process import Worker, WorkerSettings

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Job:
    """One call of `WorkerPool.run`."""

    task: Callable[..., Any]
    arguments: tuple[Any, ...]
    turn: asyncio.Event
    """Set when the job may run."""


class WorkerPool:
    """Runs functions in processes that can be ended; see the module."""

    def __init__(
        self,
        setup: Callable[[], None] | None = None,
        *,
        workers: int = 8,
        spare: int = 2,
        per_tenant: int = 1,
        waiting_per_tenant: int = 32,
        memory_bytes: int = 2 << 30,
        name: str = "loragate worker",
    ) -> None:
        """
        Args:
            setup: runs once in each new worker, before its first job; picklable.
            workers: most jobs that run at once.
            spare: most idle workers that are kept.
            per_tenant: most jobs of one tenant that run at once.
            waiting_per_tenant: most jobs of one tenant that wait.
            memory_bytes: what a worker may allocate beyond what it has after its setup.
            name: title of the processes.
        """
        self._settings = WorkerSettings(name, setup, memory_bytes, frozenset(os.sched_getaffinity(0)))
        self._workers = workers
        self._spare = spare
        self._turns: JobQueue[_Job] = JobQueue(per_tenant=per_tenant, waiting_per_tenant=waiting_per_tenant)
        self._idle: list[Worker] = []
        self._places_taken = 0
        self._busy_workers: set[Worker] = set()
        self._closed = False
        # Each job blocks one thread; the others end workers.
        self._threads = ThreadPoolExecutor(workers + spare, thread_name_prefix="worker-pool")
        # NOTE: the kernel ends a process with the *thread* that started it (see `parent_death`): a thread that stays.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="worker-start")
        self._background: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the spare workers and wait until they are ready. Raises: WorkerDied: one failed."""
        self._idle += await asyncio.gather(*(self._started() for _ in range(self._spare)))

    async def close(self) -> None:
        """End all workers; running jobs fail with WorkerDied."""
        self._closed = True
        for worker in self._busy_workers:
            worker.kill()
        while self._background:
            await asyncio.gather(*self._background)
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(self._ended, idle))
        self._threads.shutdown(wait=False)
        self._starter.shutdown(wait=False)

    @property
    def waiting(self) -> int:
        """How many jobs wait for a worker."""
        return len(self._turns)

    @property
    def running(self) -> int:
        """How many jobs run."""
        return self._places_taken

    async def run(self, tenant: str, task: Callable[..., Result], *arguments: Any, limit_s: float) -> Result:
        """Run a picklable function of a module in a worker, when it is this tenant's turn.

        Cancelling the caller ends the work: a job that waits is dropped, the process of one that runs is killed.

        Args:
            tenant: whose work it is.
            task: the function; its arguments and result must be picklable.
            arguments: what it is called with.
            limit_s: most time that it may run, in seconds.

        Raises:
            WorkRefused: too many jobs of this tenant wait.
            WorkTimedOut: it ran longer than `limit_s`.
            WorkerDied: its process crashed or needed too much memory.
            Exception: what the task raised.
        """
        job = _Job(task, arguments, asyncio.Event())
        self._turns.add(tenant, job)
        self._grant()
        try:
            await job.turn.wait()
        except asyncio.CancelledError:
            if job.turn.is_set():  # granted and cancelled in one moment
                self._free(tenant)
            else:
                self._turns.drop(tenant, job)
            raise
        try:
            result: Result = await self._run(job, limit_s)
        finally:
            self._free(tenant)
        return result

    def _grant(self) -> None:
        """Let waiting jobs run as long as there are places."""
        while self._places_taken < self._workers and not self._closed:
            job = self._turns.next()
            if job is None:
                return
            self._places_taken += 1
            job.turn.set()

    def _free(self, tenant: str) -> None:
        self._turns.done(tenant)
        self._places_taken -= 1
        self._grant()

    async def _run(self, job: _Job, limit_s: float) -> Any:
        worker = await self._acquired()
        self._busy_workers.add(worker)
        asking = asyncio.ensure_future(self._in_thread(self._threads, worker.ask, job.task, job.arguments))
        done = False
        try:
            done = bool((await asyncio.wait({asking}, timeout=limit_s))[0])
        finally:
            self._busy_workers.discard(worker)
            if done and not isinstance(asking.exception(), WorkerDied):
                self._keep(worker)
            else:  # it crashed, its time is up, or its caller has left
                worker.kill()
                self._in_background(self._replace(worker, asking))
        if not done:
            raise WorkTimedOut(limit_s)
        return asking.result()

    async def _acquired(self) -> Worker:
        """An idle worker, or a new one; a caller that leaves while it starts leaves it to the others."""
        if self._idle:
            return self._idle.pop()
        starting = asyncio.ensure_future(self._started())
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._in_background(self._keep_started(starting))
            raise

    def _keep(self, worker: Worker) -> None:
        """Keep an idle worker, or end it where `spare` others are idle."""
        if self._closed or len(self._idle) >= self._spare:
            self._in_background(self._ended(worker))
        else:
            self._idle.append(worker)

    async def _keep_started(self, starting: asyncio.Future[Worker]) -> None:
        with contextlib.suppress(WorkerDied):  # whoever runs the next job starts another, and reports it
            self._keep(await starting)

    async def _replace(self, worker: Worker, asking: asyncio.Future[Any]) -> None:
        """End a killed worker, and start another where fewer than `spare` are idle."""
        await asyncio.wait({asking})  # its thread must have left the pipe before the pipe is closed
        asking.exception()  # marks it as seen
        await self._ended(worker)
        if not self._closed and len(self._idle) < self._spare:
            await self._keep_started(asyncio.ensure_future(self._started()))

    async def _started(self) -> Worker:
        worker = await self._in_thread(self._starter, Worker, self._settings)
        try:
            await self._in_thread(self._threads, worker.wait_until_ready)
        except WorkerDied:
            await self._ended(worker)
            raise
        return worker

    async def _ended(self, worker: Worker) -> None:
        await self._in_thread(self._threads, worker.close)

    def _in_thread(
        self, threads: ThreadPoolExecutor, call: Callable[..., Result], *arguments: Any
    ) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().run_in_executor(threads, call, *arguments)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
