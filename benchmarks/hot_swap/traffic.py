"""Clients that stream from two adapters, and from a blend, while one of them is swapped."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness.client import RequestResult, TenantClients
from benchmarks.harness.workload import Request
from benchmarks.hot_swap.answers import ReferenceAnswers


@dataclass(slots=True)
class Traffic:
    """Closed-loop clients on both adapters. `results` has (prompt, result) of every request."""

    clients: TenantClients
    reference: ReferenceAnswers
    output_tokens: int
    results: list[tuple[str, RequestResult]] = field(default_factory=list)
    _origin_s: float = field(default_factory=time.perf_counter)
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)
    _numbers: Any = field(default_factory=itertools.count)

    def now_s(self) -> float:
        """Seconds on the clock of the results."""
        return time.perf_counter() - self._origin_s

    @contextlib.asynccontextmanager
    async def running(self, clients: int) -> AsyncIterator[None]:
        """Keep `clients` clients busy inside the block; its end waits for their last answers."""
        models = [self.reference.swapped, self.reference.other]
        models += [self.reference.companion] if self.reference.companion else []
        tasks = [asyncio.create_task(self._client(models[n % len(models)])) for n in range(clients)]
        try:
            yield
        finally:
            self._stopped.set()
            await asyncio.gather(*tasks)

    async def probe(self, model: str, pause_s: float) -> RequestResult:
        """Send one more request, then pause."""
        result = await self._send(model)
        await asyncio.sleep(pause_s)
        return result

    async def _client(self, model: str) -> None:
        while not self._stopped.is_set():
            await self._send(model)

    async def _send(self, model: str) -> RequestResult:
        number = next(self._numbers)
        prompt = self.reference.prompts[number % len(self.reference.prompts)]
        blend = self.reference.blend(model)
        request = Request(number, model.partition("-")[0], model, prompt, self.output_tokens, blend)
        result = await self.clients.send(request, self._origin_s)
        self.results.append((prompt, result))
        return result


def itl_within(
    results: Sequence[tuple[str, RequestResult]], model: str, intervals: Sequence[tuple[float, float]]
) -> list[float]:
    """Inter-token latencies of a model whose later token arrived within one of the intervals."""
    return [
        later - earlier
        for _, result in results
        if result.model == model
        for earlier, later in itertools.pairwise(result.event_times_s)
        if any(begin <= later < end for begin, end in intervals)
    ]
