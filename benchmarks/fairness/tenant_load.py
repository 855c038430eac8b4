"""Load of several tenants on an engine without a server, and what its clients measure."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from adapters.tenant_settings import TenantSettings
from server.admission import Admission, Reservation
from server.admission.errors import TryLater
from server.engine.scheduling.bench_engine import BenchEngine

BATCH_SLOTS = 8
BLOCK_TOKENS = 32
_KV_BYTES_PER_TOKEN = 2 * 4 * 2 * 64 * 4  # keys and values, the demo's layers, KV heads, head size, float32

#: A small engine, so that both sequence slots and KV blocks are scarce.
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
class RequestShape:
    """A request's size in tokens."""

    prompt: int
    generate: int

    def tokens(self) -> list[int]:
        """A prompt that no prefix cache holds."""
        n = next(_prompts)
        return [(n * 7919 + i * 104729 + n * i) % 3000 + 50 for i in range(self.prompt)]

    async def run(self, engine: BenchEngine, tenant: str, settings: TenantSettings) -> None:
        """Send one request and read it to its end."""
        async for _ in engine.generate(tenant, settings, self.tokens(), self.generate):
            pass


@dataclass(frozen=True, slots=True)
class TenantLoad:
    """Clients of one tenant, each of which sends its next request when its last has ended."""

    tenant: str
    settings: TenantSettings
    shape: RequestShape
    clients: int
    background: bool = False


@dataclass(slots=True)
class ServiceCounters:
    """What the clients of a load have counted.

    `service` is 1 x prompt + 2 x generated tokens per tenant; `used_tokens` has (monotonic seconds, tokens).
    """

    service: dict[str, float] = field(default_factory=dict)
    used_tokens: list[tuple[float, int]] = field(default_factory=list)
    decision_s: list[float] = field(default_factory=list)
    refused: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, tenant: str, prompt: int, generated: int) -> None:
        """Count tokens that were just delivered."""
        self.started.set()
        self.service[tenant] = self.service.get(tenant, 0) + prompt + 2 * generated
        self.used_tokens.append((time.monotonic(), prompt + generated))

    async def wait_steady(self, seconds: float) -> None:
        """Wait until the first answer arrives, and then for `seconds`."""
        await self.started.wait()
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class ProbeLatencies:
    """Latencies of requests that are sent one after the other."""

    ttft_s: list[float]
    itl_s: list[float]


@asynccontextmanager
async def under_load(
    engine: BenchEngine, loads: Sequence[TenantLoad], admission: Admission | None = None
) -> AsyncGenerator[ServiceCounters]:
    """Generate the loads inside the block; the end of the block cancels all requests."""
    counters = ServiceCounters()
    clients = [
        asyncio.create_task(_client(engine, load, counters, admission))
        for load in loads
        for _ in range(load.clients)
    ]
    try:
        yield counters
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await asyncio.sleep(0.2)  # the engine processes aborts between two steps


async def measure_service(
    engine: BenchEngine, loads: Sequence[TenantLoad], warm_up_s: float, seconds: float
) -> dict[str, float]:
    """Service per tenant within `seconds` of steady load."""
    async with under_load(engine, loads) as counters:
        await counters.wait_steady(warm_up_s)
        before = dict(counters.service)
        await asyncio.sleep(seconds)
        return {name: service - before.get(name, 0) for name, service in counters.service.items()}


async def probe(
    engine: BenchEngine, settings: TenantSettings, shape: RequestShape, seconds: float
) -> ProbeLatencies:
    """Send short requests of tenant "a", one after the other."""
    probes = ProbeLatencies([], [])
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = last = time.monotonic()
        first = True
        async for _ in engine.generate("a", settings, shape.tokens(), shape.generate):
            now = time.monotonic()
            (probes.ttft_s if first else probes.itl_s).append(now - (began if first else last))
            first, last = False, now
        await asyncio.sleep(0.02)
    return probes


async def _client(
    engine: BenchEngine, load: TenantLoad, counters: ServiceCounters, admission: Admission | None
) -> None:
    while True:
        reservation: Reservation | None = None
        if admission is not None:
            reservation = _reserve(admission, load, counters)
            if reservation is None:
                await asyncio.sleep(0.05)  # a client that ignores Retry-After
                continue
        prompt, generated = 0, 0
        try:
            async for tokens in engine.generate(
                load.tenant,
                load.settings,
                load.shape.tokens(),
                load.shape.generate,
                background=load.background,
            ):
                counters.count(load.tenant, load.shape.prompt - prompt, tokens)
                prompt, generated = load.shape.prompt, generated + tokens
        finally:
            if reservation is not None:
                reservation.settle(prompt_tokens=prompt, cached_tokens=0, generated_tokens=generated)


def _reserve(admission: Admission, load: TenantLoad, counters: ServiceCounters) -> Reservation | None:
    began = time.perf_counter()
    try:
        return admission.reserve(
            load.tenant, load.settings, prompt_tokens=load.shape.prompt, max_tokens=load.shape.generate
        )
    except TryLater:
        counters.refused += 1
        return None
    finally:
        counters.decision_s.append(time.perf_counter() - began)
