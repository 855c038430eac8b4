"""The loads of `benchmarks lora`: bursts on few adapters of each server, steady traffic on many adapters of ours."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence

from benchmarks.harness.client import TenantClients
from benchmarks.harness.load_generator import RunLength, generate_load
from benchmarks.harness.processes.tenant_server import KEY, NAME, TENANT
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.servers import LORAGATE
from benchmarks.harness.workload import Arrivals, Lengths, Popularity, Workload
from benchmarks.lora.bursts import Burst, decode_rate, prefill_rate

_CLIENTS = Arrivals("clients", 16)
_PROMPT_TOKENS, _OUTPUT_TOKENS = Lengths("lognormal", 64), Lengths("fixed", 16)
# The ids are requested because a random token mostly has no text, and a server may send no event for such a token.
_REQUEST = {"temperature": 0.0, "extra_body": {"ignore_eos": True, "return_token_ids": True}}
_WARM_UP = Burst(prompt_words=8, output_tokens=4)
_SHORT_PROMPT_WORDS = 8


async def measure_bursts(
    urls: Mapping[str, str], models: Sequence[str], options: argparse.Namespace, progress: ProgressReporter
) -> dict[str, list[float]]:
    """Rates per round: `{server}_prefill`, `{server}_decode`, and `…_base` for ours without adapters."""
    clients = {name: TenantClients(url, {TENANT: KEY}, _REQUEST) for name, url in urls.items()}
    cases: list[tuple[str, Sequence[str]]] = [(name, models) for name in urls]
    cases.append((LORAGATE, [NAME] * len(models)))
    rates: dict[str, list[float]] = {}
    try:
        for server, called in cases:
            await _WARM_UP.send(clients[server], TENANT, called, seed=-1)
        for number in range(options.rounds):
            for server, called in cases if number % 2 == 0 else reversed(cases):
                suffix = "_base" if called[0] == NAME else ""
                prefill, decode = await _median_rates(clients[server], called, options, number)
                rates.setdefault(f"{server}_prefill{suffix}", []).append(prefill)
                rates.setdefault(f"{server}_decode{suffix}", []).append(decode)
                progress.log(f"{server}{suffix}: prefill {prefill:.1f}, decode {decode:.1f} tokens/s")
    finally:
        for each in clients.values():
            await each.aclose()
    return rates


async def _median_rates(
    clients: TenantClients, models: Sequence[str], options: argparse.Namespace, number: int
) -> tuple[float, float]:
    """Prefill and decode rate of one server in this round: medians over the bursts."""
    long = Burst(options.prompt_words, output_tokens=2)
    short = Burst(_SHORT_PROMPT_WORDS, options.output_tokens)
    prefill, decode = [], []
    for burst in range(options.bursts):
        seed = number * options.bursts + burst
        prefill.append(prefill_rate(await long.send(clients, TENANT, models, seed=seed)))
        decode.append(decode_rate(await short.send(clients, TENANT, models, seed=seed)))
    return statistics.median(prefill), statistics.median(decode)


async def measure_many_adapters(
    url: str, models: Sequence[str], options: argparse.Namespace, progress: ProgressReporter
) -> dict[str, float]:
    """Throughput of Zipf(1.0) traffic on all adapters divided by that of the same traffic on the first only."""
    clients = TenantClients(url, {TENANT: KEY}, _REQUEST)
    length = RunLength(options.seconds)
    rates: dict[int, list[float]] = {len(models): [], 1: []}
    try:
        word_cost = await clients.word_cost(TENANT, models[0])
        for number in range(options.rounds):
            for adapters in rates if number % 2 == 0 else reversed(rates):
                workload = Workload(
                    {TENANT: 1},
                    {TENANT: models[:adapters]},
                    Popularity(1.0),
                    _PROMPT_TOKENS,
                    _OUTPUT_TOKENS,
                    word_cost,
                    seed=number,
                )
                async with progress.bar(f"{adapters} adapters, round {number + 1}", length) as on_result:
                    run = await generate_load(clients, workload, _CLIENTS, length, on_result)
                rates[adapters].append(run.tokens_per_s)
                progress.log(f"{adapters} adapters: {run.tokens_per_s:.1f} tokens/s")
    finally:
        await clients.aclose()
    ratio = statistics.median(a / b for a, b in zip(rates[len(models)], rates[1], strict=True))
    figures = {f"adapters_{len(models)}_vs_1": ratio}
    return figures | {f"adapters_{n}_tokens_per_s": statistics.median(v) for n, v in rates.items()}
