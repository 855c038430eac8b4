"""Put a workload on a server: open loop (requests come when they are due) or closed loop (clients wait)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.client import Clients, Sample
from benchmarks.harness.workload import Arrivals, Request, Workload

#: After the end of a run: how long answers may still take. What then still runs counts as `unfinished`.
DRAIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Run:
    """What clients saw; tokens count towards the throughput while `seconds` have not passed."""

    samples: list[Sample]
    seconds: float

    @property
    def tokens(self) -> float:
        """Generated tokens that arrived within the run."""
        return sum(sample.tokens_within(0, self.seconds) for sample in self.samples)

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second."""
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Extent:
    """When a run sends its last request: after so many seconds, or that many requests."""

    seconds: float
    requests: int | None = None


Watch = Callable[[Sample], None]


async def run(
    clients: Clients, workload: Workload, arrivals: Arrivals, extent: Extent, watch: Watch | None = None
) -> Run:
    """Send the workload's requests until the extent is reached; answers that still run are read to their end.

    Args:
        clients: where to.
        workload: what.
        arrivals: when.
        extent: until when.
        watch: called with every finished request.
    """
    origin_s = time.perf_counter()
    load = _Load(clients, workload, extent, origin_s, watch)
    if arrivals.clients is None:
        await load.open_loop(arrivals.times_s(workload.seed))
    else:
        await load.closed_loop(arrivals.clients)
    await load.drain()
    seconds = extent.seconds if extent.requests is None else time.perf_counter() - origin_s
    return Run(load.samples, seconds)


class _Load:
    """The requests of one run that are under way, and those that have ended."""

    def __init__(
        self, clients: Clients, workload: Workload, extent: Extent, origin_s: float, watch: Watch | None
    ) -> None:
        self.samples: list[Sample] = []
        self._clients = clients
        self._extent = extent
        self._origin_s = origin_s
        self._watch = watch
        self._workload = workload
        self._requests = self._within(workload.requests())
        self._tasks: set[asyncio.Task[None]] = set()

    async def open_loop(self, times_s: Iterator[float]) -> None:
        """Send each request when it is due, however many still run; a late one is sent all the same."""
        most = self._extent.requests
        for request, due_s in zip(self._workload.requests(), times_s, strict=False):
            if due_s >= self._extent.seconds if most is None else request.number >= most:
                return
            await asyncio.sleep(due_s - self._now_s())
            self._start(self._send(request, due_s))

    async def closed_loop(self, clients: int) -> None:
        """So many clients, each sending its next request when its last has ended."""
        for _ in range(clients):
            self._start(self._client())
        if self._extent.requests is None:
            await asyncio.sleep(self._extent.seconds)

    async def drain(self) -> None:
        """Wait for what still runs; give it up after a while."""
        if not self._tasks:
            return
        wait_s = DRAIN_S if self._extent.requests is None else self._extent.seconds + DRAIN_S
        _, late = await asyncio.wait(self._tasks, timeout=wait_s)
        for task in late:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*late)

    def _within(self, requests: Iterator[Request]) -> Iterator[Request]:
        for request in requests:
            most = self._extent.requests
            over = self._now_s() >= self._extent.seconds if most is None else request.number >= most
            if over:
                return
            yield request

    async def _client(self) -> None:
        # One iterator for all clients: next() runs between two awaits, so no request is sent twice.
        for request in self._requests:
            await self._send(request, None)

    async def _send(self, request: Request, due_s: float | None) -> None:
        try:
            sample = await self._clients.send(request, self._origin_s, due_s)
        except asyncio.CancelledError:
            now_s = self._now_s()
            sample = Sample(request.number, request.tenant, request.model, now_s, now_s, end_s=now_s)
            sample.error = "unfinished"
            self.samples.append(sample)
            raise
        self.samples.append(sample)
        if self._watch is not None:
            self._watch(sample)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.create_task(work))

    def _now_s(self) -> float:
        return time.perf_counter() - self._origin_s
