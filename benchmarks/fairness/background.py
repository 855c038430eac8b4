"""What the background class leaves to requests: their throughput and time to the first token beside it."""

from __future__ import annotations

import statistics

import numpy as np

from adapters.tenant_settings import TenantSettings
from benchmarks.fairness.tenant_load import (
    BATCH_SLOTS,
    RequestShape,
    TenantLoad,
    measure_service,
    probe,
    under_load,
)
from server.engine.scheduling.bench_engine import BenchEngine

_MIXED = RequestShape(prompt=64, generate=48)
_PROBE = RequestShape(prompt=32, generate=8)
#: Requests of which more wait than run, and as much background work.
_REQUESTS = TenantLoad("requests", TenantSettings(), _MIXED, clients=2 * BATCH_SLOTS)
_BACKGROUND = TenantLoad("work", TenantSettings(), _MIXED, clients=2 * BATCH_SLOTS, background=True)


async def background_figures(engine: BenchEngine, seconds: float, rounds: int) -> dict[str, float]:
    """Requests under saturating load, without and with background work beside them, in turns.

    `foreground_throughput_ratio`: their service with it divided by that without; the median over the rounds.
    `foreground_p99_ttft_ratio`: the same of the 99th percentile of the probes' time to the first token.
    `background_alone_ratio`: the service of background work alone divided by that of requests alone.
    """
    await probe(engine, TenantSettings(), _PROBE, seconds=1.0)
    ratios, alone, ttft_s = [], [], {True: list[float](), False: list[float]()}
    for number in range(rounds):
        service = {}
        for beside in (True, False) if number % 2 else (False, True):
            loads = [_REQUESTS, _BACKGROUND] if beside else [_REQUESTS]
            service[beside] = (await measure_service(engine, loads, 0.5, seconds / 4))["requests"]
            async with under_load(engine, loads) as counters:
                await counters.wait_steady(0.5)
                found = await probe(engine, TenantSettings(), _PROBE, seconds=seconds / 4)
            ttft_s[beside] += found.ttft_s
        background = (await measure_service(engine, [_BACKGROUND], 0.5, seconds / 4))["work"]
        ratios.append(service[True] / service[False])
        alone.append(background / service[False])
    p99_s = {beside: float(np.percentile(values, 99)) for beside, values in ttft_s.items()}
    return {
        "foreground_throughput_ratio": statistics.median(ratios),
        "foreground_p99_ttft_ratio": p99_s[True] / p99_s[False],
        "foreground_p99_ttft_ms": 1000 * p99_s[True],
        "foreground_probes": len(ttft_s[True]),
        "background_alone_ratio": statistics.median(alone),
    }
