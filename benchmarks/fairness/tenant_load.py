"""Load of several tenants on a bare engine, and what its clients see."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from adapters.tenant_settings import TenantSettings
from server.admission import Admission, Reservation, TryLater
from server.engine.bench_engine import BareEngine

BATCH_SLOTS = 8
BLOCK_TOKENS = 32
_KV_BYTES_PER_TOKEN = 2 * 4 * 2 * 64 * 4  # keys and values, the demo's layers, KV heads, head size, float32

#: Small, so that both the slots and the blocks are scarce.
ENGINE_OPTIONS = {
    "max_model_len": 1024,
    "max_num_seqs": BATCH_SLOTS,
    "max_num_batched_tokens": 512,
    "block_size": BLOCK_TOKENS,
    "kv_cache_memory_bytes": 97 * BLOCK_TOKENS * _KV_BYTES_PER_TOKEN,
    "disable_log_stats": True,
}

_prompts = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Shape:
    """A request's size in tokens."""

    prompt: int
    generate: int

    def tokens(self) -> list[int]:
        """A prompt that no cache has seen."""
        n = next(_prompts)
        return [(n * 7919 + i * 104729 + n * i) % 3000 + 50 for i in range(self.prompt)]

    async def run(self, engine: BareEngine, tenant: str, policy: TenantSettings) -> None:
        """One request, to its end."""
        async for _ in engine.generate(tenant, policy, self.tokens(), self.generate):
            pass


@dataclass(frozen=True, slots=True)
class Load:
    """So many clients of one tenant, each sending its next request when the last has ended."""

    tenant: str
    policy: TenantSettings
    shape: Shape
    clients: int


@dataclass(slots=True)
class Meter:
    """What the clients of a load have counted."""

    service: dict[str, float] = field(default_factory=dict)
    used_tokens: list[tuple[float, int]] = field(default_factory=list)
    decision_s: list[float] = field(default_factory=list)
    refused: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, tenant: str, prompt: int, generated: int) -> None:
        """Tokens that were just delivered."""
        self.started.set()
        self.service[tenant] = self.service.get(tenant, 0) + prompt + 2 * generated
        self.used_tokens.append((time.monotonic(), prompt + generated))

    async def settled(self, seconds: float) -> None:
        """Wait until answers flow, and then a little."""
        await self.started.wait()
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Probes:
    """Latencies of requests sent one after the other."""

    ttft_s: list[float]
    gaps_s: list[float]


@asynccontextmanager
async def busy(
    engine: BareEngine, loads: Sequence[Load], admission: Admission | None = None
) -> AsyncGenerator[Meter]:
    """Keep the loads up inside the block; all requests are ended when it is left."""
    meter = Meter()
    clients = [
        asyncio.create_task(_client(engine, load, meter, admission))
        for load in loads
        for _ in range(load.clients)
    ]
    try:
        yield meter
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await asyncio.sleep(0.2)  # the engine takes the aborts between two steps


async def window(
    engine: BareEngine, loads: Sequence[Load], warm_up_s: float, seconds: float
) -> dict[str, float]:
    """Service per tenant (1 x prompt + 2 x generated) within `seconds` of steady load."""
    async with busy(engine, loads) as meter:
        await meter.settled(warm_up_s)
        before = dict(meter.service)
        await asyncio.sleep(seconds)
        return {name: service - before.get(name, 0) for name, service in meter.service.items()}


async def probe(engine: BareEngine, policy: TenantSettings, shape: Shape, seconds: float) -> Probes:
    """Short requests of tenant "a", one after the other."""
    probes = Probes([], [])
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = last = time.monotonic()
        first = True
        async for _ in engine.generate("a", policy, shape.tokens(), shape.generate):
            now = time.monotonic()
            (probes.ttft_s if first else probes.gaps_s).append(now - (began if first else last))
            first, last = False, now
        await asyncio.sleep(0.02)
    return probes


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(len(ordered) * percent) // 100) - 1)]


async def _client(engine: BareEngine, load: Load, meter: Meter, admission: Admission | None) -> None:
    while True:
        reservation: Reservation | None = None
        if admission is not None:
            reservation = _enter(admission, load, meter)
            if reservation is None:
                await asyncio.sleep(0.05)  # a client that does not heed Retry-After
                continue
        prompt, generated = 0, 0
        try:
            async for tokens in engine.generate(
                load.tenant, load.policy, load.shape.tokens(), load.shape.generate
            ):
                meter.count(load.tenant, load.shape.prompt - prompt, tokens)
                prompt, generated = load.shape.prompt, generated + tokens
        finally:
            if reservation is not None:
                reservation.settle(prompt_tokens=prompt, cached_tokens=0, generated_tokens=generated)


def _enter(admission: Admission, load: Load, meter: Meter) -> Reservation | None:
    began = time.perf_counter()
    try:
        return admission.reserve(
            load.tenant, load.policy, prompt_tokens=load.shape.prompt, max_tokens=load.shape.generate
        )
    except TryLater:
        meter.refused += 1
        return None
    finally:
        meter.decision_s.append(time.perf_counter() - began)
