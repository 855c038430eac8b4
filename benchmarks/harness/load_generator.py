"""Sends a workload to a server: open loop (requests are sent when they are due) or closed loop (clients wait)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness.client import RequestResult, TenantClients
from benchmarks.harness.workload import Arrivals, Request, Workload

#: How long answers may take after the end of a run. Requests that still run then count as `unfinished`.
DRAIN_S = 120.0


@dataclass(frozen=True, slots=True)
class RunResult:
    """The results of one run; tokens count towards the throughput until `seconds` have passed."""

    results: list[RequestResult]
    seconds: float

    @property
    def tokens(self) -> float:
        """Generated tokens that arrived within the run."""
        return sum(result.tokens_within(0, self.seconds) for result in self.results)

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second."""
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class RunLength:
    """When a run sends its last request: after `seconds`, or after `requests` if that is given."""

    seconds: float
    requests: int | None = None

    def is_over(self, at_s: float, number: int) -> bool:
        """Whether request `number` is no longer sent at `at_s` seconds from the start."""
        return at_s >= self.seconds if self.requests is None else number >= self.requests


OnResult = Callable[[RequestResult], None]


async def generate_load(
    clients: TenantClients,
    workload: Workload,
    arrivals: Arrivals,
    length: RunLength,
    on_result: OnResult | None = None,
) -> RunResult:
    """Send the requests of a workload for the length of a run, and read all answers to their end.

    Args:
        clients: the server to send to.
        workload: the requests.
        arrivals: when they are sent.
        length: when the last one is sent.
        on_result: called with the result of every finished request.
    """
    load = _LoadGenerator(clients, workload, length, on_result)
    if arrivals.clients is None:
        await load.open_loop(arrivals.times_s(workload.seed))
    else:
        await load.closed_loop(arrivals.clients)
    await load.drain()
    return RunResult(load.results, length.seconds if length.requests is None else load.now_s())


@dataclass(slots=True)
class _LoadGenerator:
    clients: TenantClients
    workload: Workload
    length: RunLength
    on_result: OnResult | None
    origin_s: float = field(default_factory=time.perf_counter)
    results: list[RequestResult] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def open_loop(self, times_s: Iterator[float]) -> None:
        """Send each request when it is due, however many still run. A late one is sent all the same."""
        for request, due_s in zip(self.workload.requests(), times_s, strict=False):
            if self.length.is_over(due_s, request.number):
                return
            await asyncio.sleep(due_s - self.now_s())
            self._start(self._send(request, due_s))

    async def closed_loop(self, clients: int) -> None:
        # All clients share one iterator: next() runs between two awaits, so no request is sent twice.
        requests = self.workload.requests()
        for _ in range(clients):
            self._start(self._client(requests))
        if self.length.requests is None:
            await asyncio.sleep(self.length.seconds)

    async def drain(self) -> None:
        if not self.tasks:
            return
        wait_s = DRAIN_S if self.length.requests is None else self.length.seconds + DRAIN_S
        _, late = await asyncio.wait(self.tasks, timeout=wait_s)
        for task in late:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*late)

    async def _client(self, requests: Iterator[Request]) -> None:
        for request in requests:
            if self.length.is_over(self.now_s(), request.number):
                return
            await self._send(request, None)

    async def _send(self, request: Request, due_s: float | None) -> None:
        try:
            result = await self.clients.send(request, self.origin_s, due_s)
        except asyncio.CancelledError:
            now_s = self.now_s()
            unfinished = RequestResult(request.number, request.tenant, request.model, now_s, now_s)
            unfinished.end_s, unfinished.error = now_s, "unfinished"
            self.results.append(unfinished)
            raise
        self.results.append(result)
        if self.on_result is not None:
            self.on_result(result)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.add(asyncio.create_task(work))

    def now_s(self) -> float:
        return time.perf_counter() - self.origin_s
