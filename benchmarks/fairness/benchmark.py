"""Noisy neighbours, weights and budgets on the demo model: our scheduler against vLLM's own, in the same run.

    python -m benchmarks fairness [--seconds 20] [--quick]

Both engines are up at the same time and measured in turn, so that both see the same machine. Service is
1 x prompt + 2 x generated tokens, counted by the clients. Prints a table, then one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
from collections.abc import Sequence

import numpy as np

import demo
from adapters.tenant_settings import TenantSettings
from benchmarks.fairness.background import background_figures
from benchmarks.fairness.tenant_load import (
    BATCH_SLOTS,
    ENGINE_OPTIONS,
    RequestShape,
    TenantLoad,
    measure_service,
    probe,
    under_load,
)
from benchmarks.harness.report import exit_code, print_figures, print_json
from server.admission import Admission
from server.engine.scheduling.bench_engine import BenchEngine
from server.fairness.shares import Capacity, Share

BOUNDS = {
    "noisy_neighbour_p99_ttft_ratio": ("<=", 3.0),
    "service_gap": ("<=", 0.05),
    "weights_error": ("<=", 0.05),
    "alone_vs_stock_throughput": (">=", 0.98),
    "all_vs_stock_throughput": (">=", 0.97),
    "foreground_throughput_ratio": (">=", 0.98),
    "foreground_p99_ttft_ratio": ("<=", 1.1),
    "limit_violations": ("<=", 0),
    "starved_steps": ("<=", 0),
    "tpm_overshoot_tokens": ("<=", 0),
    "admission_p99_ms": ("<=", 1.0),
}

PROBE = RequestShape(prompt=32, generate=8)
NOISE = RequestShape(prompt=64, generate=256)
LONG_PROMPT, LONG_ANSWER = RequestShape(prompt=400, generate=8), RequestShape(prompt=20, generate=120)
MIXED = RequestShape(prompt=64, generate=48)


def main(argv: Sequence[str]) -> int:
    """Run all parts; 0 if every bound holds, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks fairness", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--seconds", type=float, default=20.0, help="length of each timed part (default: %(default)s)")
    add("--rounds", type=int, default=12, help="rounds of the throughput parts (default: %(default)s)")
    add("--only", choices=["background"], help="measure this part alone, on our scheduler")
    add("--quick", action="store_true", help="a tenth of the time: a smoke test")
    options = parser.parse_args(argv)
    if options.quick:
        options.seconds, options.rounds = options.seconds / 10, 2
    measure = _measure_background if options.only else _measure
    figures = asyncio.run(measure(options.seconds, options.rounds))
    bounds = {name: bound for name, bound in BOUNDS.items() if name in figures or not options.only}
    print_figures(figures, bounds)
    print_json({name: round(value, 6) for name, value in figures.items()})
    return exit_code(figures, bounds)


async def _measure_background(seconds: float, rounds: int) -> dict[str, float]:
    engine = BenchEngine(demo.MODEL_DIR, fair=True, **ENGINE_OPTIONS)
    try:
        return await background_figures(engine, seconds, rounds)
    finally:
        engine.stop()


async def _measure(seconds: float, rounds: int) -> dict[str, float]:
    fair = BenchEngine(demo.MODEL_DIR, fair=True, **ENGINE_OPTIONS)
    stock = BenchEngine(demo.MODEL_DIR, fair=False, **ENGINE_OPTIONS)
    try:
        figures: dict[str, float] = {}
        figures |= await _noisy_neighbour(fair, seconds)
        figures |= {f"stock_{n}": v for n, v in (await _noisy_neighbour(stock, seconds)).items()}
        figures["service_gap"] = await _service_gap(fair, seconds)
        figures["stock_service_gap"] = await _service_gap(stock, seconds)
        figures |= await _weights(fair, seconds)
        figures["alone_vs_stock_throughput"] = await _throughput_ratio(fair, stock, 1, seconds, rounds)
        figures["all_vs_stock_throughput"] = await _throughput_ratio(fair, stock, 8, seconds, rounds)
        figures |= await background_figures(fair, seconds, rounds)
        figures |= await _token_rate(fair, seconds)
        figures |= await _budgets(fair, requests=max(int(25 * seconds), 50))
        return figures
    finally:
        fair.stop()
        stock.stop()


async def _noisy_neighbour(engine: BenchEngine, seconds: float) -> dict[str, float]:
    """Tenant A alone, then while tenant B sends 20 times A's load of long generations."""
    quiet, noisy = TenantSettings(kv_guarantee=0.25), TenantSettings()
    await probe(engine, quiet, PROBE, seconds=1.0)
    alone = await probe(engine, quiet, PROBE, seconds=seconds / 2)
    async with under_load(engine, [TenantLoad("b", noisy, NOISE, clients=20)]) as counters:
        await counters.wait_steady(seconds / 4)
        contended = await probe(engine, quiet, PROBE, seconds=seconds * 2)
    alone_s, contended_s = _p99(alone.ttft_s), _p99(contended.ttft_s)
    step_ratio = statistics.median(contended.itl_s) / statistics.median(alone.itl_s)
    return {
        "noisy_neighbour_p99_ttft_ratio": contended_s / alone_s,
        "noisy_neighbour_step_ratio": step_ratio,
        "noisy_neighbour_p99_ttft_alone_ms": 1000 * alone_s,
        "noisy_neighbour_p99_ttft_ms": 1000 * contended_s,
        "noisy_neighbour_probes": len(contended.ttft_s),
    }


async def _service_gap(engine: BenchEngine, seconds: float) -> float:
    """Two tenants under constant load, equal weights, opposite shapes: difference of service over the total."""
    loads = [
        TenantLoad("prompts", TenantSettings(), LONG_PROMPT, clients=3 * BATCH_SLOTS),
        TenantLoad("answers", TenantSettings(), LONG_ANSWER, clients=3 * BATCH_SLOTS),
    ]
    service = await measure_service(engine, loads, warm_up_s=seconds / 4, seconds=2 * seconds)
    return abs(service["prompts"] - service["answers"]) / sum(service.values())


async def _weights(engine: BenchEngine, seconds: float) -> dict[str, float]:
    loads = [
        TenantLoad("three", TenantSettings(weight=3), LONG_ANSWER, clients=3 * BATCH_SLOTS),
        TenantLoad("one", TenantSettings(weight=1), LONG_PROMPT, clients=3 * BATCH_SLOTS),
    ]
    service = await measure_service(engine, loads, warm_up_s=seconds / 4, seconds=2 * seconds)
    ratio = service["three"] / service["one"]
    return {"weights_3_to_1": ratio, "weights_error": abs(ratio - 3) / 3}


async def _throughput_ratio(
    fair: BenchEngine, stock: BenchEngine, tenants: int, seconds: float, rounds: int
) -> float:
    """Service of our engine divided by that of vLLM's: the median over the rounds."""
    loads = [
        TenantLoad(f"t{i}", TenantSettings(), MIXED, clients=2 * BATCH_SLOTS // tenants)
        for i in range(tenants)
    ]
    ratios = []
    for number in range(rounds):
        order = (fair, stock) if number % 2 else (stock, fair)
        service = {e.fair: sum((await measure_service(e, loads, 0.5, seconds / 4)).values()) for e in order}
        ratios.append(service[True] / service[False])
    return statistics.median(ratios)


async def _token_rate(engine: BenchEngine, seconds: float) -> dict[str, float]:
    """64 clients against a tpm limit: tokens used above it in any minute, and the time of a decision."""
    settings = TenantSettings(tpm=6000)
    admission = Admission(engine.capacity)
    load = TenantLoad("capped", settings, MIXED, clients=64)
    async with under_load(engine, [load], admission) as counters:
        await asyncio.sleep(seconds)
    used = counters.used_tokens
    most = max((sum(n for at, n in used if 0 <= end - at <= 60) for end, _ in used), default=0)
    return {
        "tpm_overshoot_tokens": max(0, most - 6000),
        "tpm_used_tokens": most,
        "tpm_still_reserved_tokens": admission.reserved_tokens("capped"),
        "tpm_refused": counters.refused,
        "admission_p99_ms": 1000 * _p99(counters.decision_s),
    }


def _p99(values: Sequence[float]) -> float:
    """The nearest rank, as in all earlier reports of this benchmark."""
    return float(np.percentile(values, 99, method="inverted_cdf"))


async def _budgets(engine: BenchEngine, requests: int) -> dict[str, float]:
    """Random requests of 8 tenants with random guarantees and limits; the scheduler checks every step."""
    rng = random.Random(4)
    settings = _random_settings(rng, 8)
    capacity = engine.capacity
    before = (await engine.report())["counters"]
    running = []
    for _ in range(requests):
        tenant = rng.choice(list(settings))
        shape = _fitting(rng, settings[tenant], capacity)
        running.append(asyncio.create_task(shape.run(engine, tenant, settings[tenant])))
        if rng.random() < 0.2:
            await asyncio.sleep(rng.uniform(0, 0.1))
    await asyncio.gather(*running)
    after = (await engine.report())["counters"]
    return {"budget_requests": requests, **{name: after[name] - before[name] for name in after}}


def _random_settings(rng: random.Random, tenants: int) -> dict[str, TenantSettings]:
    left, settings = 1.0, {}
    for i in range(tenants):
        guarantee = rng.choice([0.0, rng.uniform(0, left / 2)])
        left -= guarantee
        limit = min(1.0, max(guarantee, rng.uniform(0.15, 1.2)))
        settings[f"r{i}"] = TenantSettings(weight=rng.choice([1, 2]), kv_guarantee=guarantee, kv_limit=limit)
    return settings


def _fitting(rng: random.Random, settings: TenantSettings, capacity: Capacity) -> RequestShape:
    most = min(capacity.limit_blocks(Share.of(settings)) * capacity.block_size_tokens, 900)
    prompt = rng.randint(4, most // 2)
    return RequestShape(prompt, rng.randint(1, min(200, most - prompt)))
