"""Sends a workload to a server: open loop (requests are sent when they are due) or closed loop (clients wait)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
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
    origin_s = time.perf_counter()
    load = _LoadGenerator(clients, workload, length, origin_s, on_result)
    if arrivals.clients is None:
        await load.open_loop(arrivals.times_s(workload.seed))
    else:
        await load.closed_loop(arrivals.clients)
    await load.drain()
    seconds = length.seconds if length.requests is None else time.perf_counter() - origin_s
    return RunResult(load.results, seconds)


class _LoadGenerator:
    """The running requests of one run, and the results of the finished ones."""

    def __init__(
        self,
        clients: TenantClients,
        workload: Workload,
        length: RunLength,
        origin_s: float,
        on_result: OnResult | None,
    ) -> None:
        self.results: list[RequestResult] = []
        self._clients = clients
        self._length = length
        self._origin_s = origin_s
        self._on_result = on_result
        self._workload = workload
        self._requests = self._until_end(workload.requests())
        self._tasks: set[asyncio.Task[None]] = set()

    async def open_loop(self, times_s: Iterator[float]) -> None:
        """Send each request when it is due, however many still run. A late one is sent all the same."""
        limit = self._length.requests
        for request, due_s in zip(self._workload.requests(), times_s, strict=False):
            if due_s >= self._length.seconds if limit is None else request.number >= limit:
                return
            await asyncio.sleep(due_s - self._now_s())
            self._start(self._send(request, due_s))

    async def closed_loop(self, clients: int) -> None:
        """Run `clients` clients, each of which sends its next request when its last has ended."""
        for _ in range(clients):
            self._start(self._client())
        if self._length.requests is None:
            await asyncio.sleep(self._length.seconds)

    async def drain(self) -> None:
        """Wait for the running requests; cancel those that take too long."""
        if not self._tasks:
            return
        wait_s = DRAIN_S if self._length.requests is None else self._length.seconds + DRAIN_S
        _, late = await asyncio.wait(self._tasks, timeout=wait_s)
        for task in late:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*late)

    def _until_end(self, requests: Iterator[Request]) -> Iterator[Request]:
        for request in requests:
            limit = self._length.requests
            over = self._now_s() >= self._length.seconds if limit is None else request.number >= limit
            if over:
                return
            yield request

    async def _client(self) -> None:
        # All clients share one iterator: next() runs between two awaits, so no request is sent twice.
        for request in self._requests:
            await self._send(request, None)

    async def _send(self, request: Request, due_s: float | None) -> None:
        try:
            result = await self._clients.send(request, self._origin_s, due_s)
        except asyncio.CancelledError:
            now_s = self._now_s()
            result = RequestResult(request.number, request.tenant, request.model, now_s, now_s, end_s=now_s)
            result.error = "unfinished"
            self.results.append(result)
            raise
        self.results.append(result)
        if self._on_result is not None:
            self._on_result(result)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.create_task(work))

    def _now_s(self) -> float:
        return time.perf_counter() - self._origin_s
