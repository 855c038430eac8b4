"""Noisy neighbours, weights and budgets on the demo model: our scheduler against vLLM's own, in the same run.

    python -m benchmarks fairness [--seconds 20] [--quick]

Both engines are up at the same time and measured in turns, so that both see the same machine. Service is
1 x prompt + 2 x generated tokens, counted by the clients. Prints a table, then one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
from collections.abc import Sequence

import demo
from adapters.tenant_settings import TenantSettings
from benchmarks.fairness.tenant_load import (
    BATCH_SLOTS,
    ENGINE_OPTIONS,
    Load,
    Shape,
    busy,
    percentile,
    probe,
    window,
)
from server.admission import Admission
from server.engine.bench_engine import BareEngine
from server.fairness.policy import Capacity, Share

#: Figures that issue 4 bounds: name -> (largest or smallest value, whether it is the largest).
BOUNDS = {
    "noisy_neighbour_p99_ttft_ratio": (3.0, True),
    "service_gap": (0.05, True),
    "weights_error": (0.05, True),
    "alone_vs_stock_throughput": (0.98, False),
    "all_vs_stock_throughput": (0.97, False),
    "limit_violations": (0, True),
    "starved_steps": (0, True),
    "tpm_overshoot_tokens": (0, True),
    "admission_p99_ms": (1.0, True),
}

PROBE = Shape(prompt=32, generate=8)
NOISE = Shape(prompt=64, generate=256)
LONG_PROMPT, LONG_ANSWER = Shape(prompt=400, generate=8), Shape(prompt=20, generate=120)
MIXED = Shape(prompt=64, generate=48)


def main(argv: Sequence[str]) -> int:
    """Run all parts; 0 when every bound holds, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks fairness", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each timed part")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each engine in the throughput parts")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything: a smoke test")
    options = parser.parse_args(argv)
    if options.quick:
        options.seconds, options.rounds = options.seconds / 10, 2
    figures = asyncio.run(_measure(options.seconds, options.rounds))
    _print(figures)
    return 0 if all(holds(name, figures[name]) for name in BOUNDS) else 1


def holds(name: str, value: float) -> bool:
    """Whether a figure keeps its bound."""
    bound, is_largest = BOUNDS[name]
    return value <= bound if is_largest else value >= bound


async def _measure(seconds: float, rounds: int) -> dict[str, float]:
    fair = BareEngine(demo.MODEL_DIR, fair=True, **ENGINE_OPTIONS)
    stock = BareEngine(demo.MODEL_DIR, fair=False, **ENGINE_OPTIONS)
    try:
        figures: dict[str, float] = {}
        figures |= await _noisy_neighbour(fair, seconds)
        figures |= {f"stock_{n}": v for n, v in (await _noisy_neighbour(stock, seconds)).items()}
        figures["service_gap"] = await _service_gap(fair, seconds)
        figures["stock_service_gap"] = await _service_gap(stock, seconds)
        figures |= await _weights(fair, seconds)
        figures["alone_vs_stock_throughput"] = await _throughput_ratio(fair, stock, 1, seconds, rounds)
        figures["all_vs_stock_throughput"] = await _throughput_ratio(fair, stock, 8, seconds, rounds)
        figures |= await _token_rate(fair, seconds)
        figures |= await _budgets(fair, requests=max(int(25 * seconds), 50))
        return figures
    finally:
        fair.stop()
        stock.stop()


async def _noisy_neighbour(engine: BareEngine, seconds: float) -> dict[str, float]:
    """A alone, then with B sending 20 times A's load of long generations."""
    quiet, noisy = TenantSettings(kv_guarantee=0.25), TenantSettings()
    await probe(engine, quiet, PROBE, seconds=1.0)
    alone = await probe(engine, quiet, PROBE, seconds=seconds / 2)
    async with busy(engine, [Load("b", noisy, NOISE, clients=20)]) as meter:
        await meter.settled(seconds / 4)
        contended = await probe(engine, quiet, PROBE, seconds=seconds * 2)
    ratio = percentile(contended.ttft_s, 99) / percentile(alone.ttft_s, 99)
    step_ratio = statistics.median(contended.gaps_s) / statistics.median(alone.gaps_s)
    return {
        "noisy_neighbour_p99_ttft_ratio": ratio,
        "noisy_neighbour_step_ratio": step_ratio,
        "noisy_neighbour_p99_ttft_alone_ms": 1000 * percentile(alone.ttft_s, 99),
        "noisy_neighbour_p99_ttft_ms": 1000 * percentile(contended.ttft_s, 99),
        "noisy_neighbour_probes": len(contended.ttft_s),
    }


async def _service_gap(engine: BareEngine, seconds: float) -> float:
    """Two always-busy tenants of equal weight and opposite shapes: difference of service over the total."""
    loads = [
        Load("prompts", TenantSettings(), LONG_PROMPT, clients=3 * BATCH_SLOTS),
        Load("answers", TenantSettings(), LONG_ANSWER, clients=3 * BATCH_SLOTS),
    ]
    service = await window(engine, loads, warm_up_s=seconds / 4, seconds=2 * seconds)
    return abs(service["prompts"] - service["answers"]) / sum(service.values())


async def _weights(engine: BareEngine, seconds: float) -> dict[str, float]:
    loads = [
        Load("three", TenantSettings(weight=3), LONG_ANSWER, clients=3 * BATCH_SLOTS),
        Load("one", TenantSettings(weight=1), LONG_PROMPT, clients=3 * BATCH_SLOTS),
    ]
    service = await window(engine, loads, warm_up_s=seconds / 4, seconds=2 * seconds)
    ratio = service["three"] / service["one"]
    return {"weights_3_to_1": ratio, "weights_error": abs(ratio - 3) / 3}


async def _throughput_ratio(
    fair: BareEngine, stock: BareEngine, tenants: int, seconds: float, rounds: int
) -> float:
    """Service per second of ours over vLLM's: the median over turns of the two engines."""
    loads = [
        Load(f"t{i}", TenantSettings(), MIXED, clients=2 * BATCH_SLOTS // tenants) for i in range(tenants)
    ]
    ratios = []
    for turn in range(rounds):
        order = (fair, stock) if turn % 2 else (stock, fair)
        service = {e.fair: sum((await window(e, loads, 0.5, seconds / 4)).values()) for e in order}
        ratios.append(service[True] / service[False])
    return statistics.median(ratios)


async def _token_rate(engine: BareEngine, seconds: float) -> dict[str, float]:
    """64 clients against a tpm: what was used in any minute above it, and what a decision costs."""
    policy = TenantSettings(tpm=6000)
    admission = Admission(engine.capacity)
    async with busy(engine, [Load("capped", policy, MIXED, clients=64)], admission=admission) as meter:
        await asyncio.sleep(seconds)
    used = meter.used_tokens
    most = max((sum(n for at, n in used if 0 <= end - at <= 60) for end, _ in used), default=0)
    return {
        "tpm_overshoot_tokens": max(0, most - 6000),
        "tpm_used_tokens": most,
        "tpm_still_reserved_tokens": admission.reserved_tokens("capped"),
        "tpm_refused": meter.refused,
        "admission_p99_ms": 1000 * percentile(meter.decision_s, 99),
    }


async def _budgets(engine: BareEngine, requests: int) -> dict[str, float]:
    """Random requests of 8 tenants with random guarantees and limits; the scheduler checks every step."""
    chance = random.Random(4)
    policies = _random_policies(chance, 8)
    capacity = engine.capacity
    before = (await engine.report())["counters"]
    running = []
    for _ in range(requests):
        tenant = chance.choice(list(policies))
        shape = _fitting(chance, policies[tenant], capacity)
        running.append(asyncio.create_task(shape.run(engine, tenant, policies[tenant])))
        if chance.random() < 0.2:
            await asyncio.sleep(chance.uniform(0, 0.1))
    await asyncio.gather(*running)
    after = (await engine.report())["counters"]
    return {"budget_requests": requests, **{name: after[name] - before[name] for name in after}}


def _random_policies(chance: random.Random, tenants: int) -> dict[str, TenantSettings]:
    left, policies = 1.0, {}
    for i in range(tenants):
        guarantee = chance.choice([0.0, chance.uniform(0, left / 2)])
        left -= guarantee
        limit = min(1.0, max(guarantee, chance.uniform(0.15, 1.2)))
        policies[f"r{i}"] = TenantSettings(
            weight=chance.choice([1, 2]), kv_guarantee=guarantee, kv_limit=limit
        )
    return policies


def _fitting(chance: random.Random, policy: TenantSettings, capacity: Capacity) -> Shape:
    most = min(capacity.limit_blocks(Share.of(policy)) * capacity.block_size_tokens, 900)
    prompt = chance.randint(4, most // 2)
    return Shape(prompt, chance.randint(1, min(200, most - prompt)))


def _print(figures: dict[str, float]) -> None:
    print(f"{'figure':40} {'value':>12}  bound")
    for name, value in figures.items():
        bound = ""
        if name in BOUNDS:
            sign = "<=" if BOUNDS[name][1] else ">="
            bound = f"{sign} {BOUNDS[name][0]:g}  {'ok' if holds(name, value) else 'MISSED'}"
        print(f"{name:40} {value:12.4g}  {bound}".rstrip())
    print(json.dumps({name: round(value, 6) for name, value in figures.items()}, separators=(",", ":")))
