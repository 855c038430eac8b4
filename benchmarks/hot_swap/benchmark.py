"""Versions swapped under load: failed, mixed and stale answers, and the latency of the other tenant.

    python -m benchmarks swap [--swaps 100] [--blends] [--url http://127.0.0.1:8000 --operator-key KEY]

Half of the clients stream from `acme-support`, which is swapped between two versions, and half from `globex-tools`,
which is not. Phases with and without swaps alternate, so that `p99_itl_ratio` (the other tenant's inter-token latency
with swaps divided by that without) compares phases of one run. With `--blends` the second version is a blend, and a
third of the clients asks for `acme-support` together with another adapter in each request, so that every swap needs
another blend. Without `--url` a demo server is started.
Prints a table, then one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import uvloop

from benchmarks.harness.admin_client import AdapterAdmin
from benchmarks.harness.client import RequestResult, TenantClients
from benchmarks.harness.demo_server import DEMO_FLAGS, DEMO_KEYS, OPERATOR_KEY
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.report import percentile, publish
from benchmarks.harness.servers import scratch, start_ours
from benchmarks.hot_swap.answers import ReferenceAnswers, Swap, check_answers, reference_answers
from benchmarks.hot_swap.traffic import Traffic, itl_within
from demo.random_adapter import write_random_adapter

BOUNDS = {
    "failed_requests": ("<=", 0),
    "mixed_answers": ("<=", 0),
    "stale_answers": ("<=", 0),
    "p99_itl_ratio": ("<=", 1.5),
}
SWAPPED, OTHER, COMPANION = "acme-support", "globex-tools", "acme-tone"
#: A blend of a version of rank 16 with a blend of ranks 16 and 8 has rank 32.
_BLEND_FLAGS = replace(DEMO_FLAGS, max_lora_rank=32)
_STAGGER_S = 2.0


def main(argv: Sequence[str]) -> int:
    """Swap; 0 if every bound holds, else 1."""
    options = _parser().parse_args(argv)
    progress = ProgressReporter(quiet=options.quiet)
    with _server(options, progress) as url, scratch() as home:
        rank = 8 if options.blends else 16
        second = options.second or write_random_adapter(home / "second", seed=11, scale=1.0, rank=rank)
        figures = uvloop.run(_measure(options, url, second, progress))
    flags = {"swaps": options.swaps, "clients": options.clients, "turns": options.turns}
    flags |= {"blends": options.blends}
    return publish("swap", figures, BOUNDS, options.out, flags=flags)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks swap", description="Swaps under load.")
    add = parser.add_argument
    add("--url", help="a server with the demo's tenants (default: start one)")
    add("--operator-key", default=OPERATOR_KEY, help="(default: the demo's key)")
    add("--swaps", type=int, default=100, help="number of swaps (default: %(default)s)")
    add("--clients", type=int, default=16, help="half of them on each tenant (default: %(default)s)")
    add("--turns", type=int, default=5, help="phases without and with swaps (default: %(default)s)")
    add("--blends", action="store_true", help="swap with a blend, and ask for blends in requests")
    add("--pause", type=float, default=0.3, help="seconds between two swaps (default: %(default)s)")
    add("--output-tokens", type=int, default=48, help="length of every answer (default: %(default)s)")
    add("--second", type=Path, help="folder of the second version (default: random weights)")
    add("--out", type=Path, help="also write the JSON to this file")
    add("--quiet", action="store_true", help="print no progress")
    return parser


@contextlib.contextmanager
def _server(options: argparse.Namespace, progress: ProgressReporter) -> Iterator[str]:
    if options.url is not None:
        yield options.url
        return
    flags = _BLEND_FLAGS if options.blends else DEMO_FLAGS
    with scratch() as home, start_ours(flags, home, demo=True) as server:
        progress.log(f"ready after {server.wait_ready():.1f} s")
        yield server.url


async def _measure(
    options: argparse.Namespace, url: str, second: Path, progress: ProgressReporter
) -> dict[str, float]:
    request = {"temperature": 0.0, "extra_body": {"ignore_eos": True}}
    clients = TenantClients(url, DEMO_KEYS, request)
    companion = COMPANION if options.blends else None
    async with (
        AdapterAdmin(url, options.operator_key, "acme", "support") as adapter,
        AdapterAdmin(url, options.operator_key, "acme", "tone") as tone,
    ):
        first = await adapter.version()
        if companion is None:
            versions = (first, await adapter.add(second))
        else:
            number = await tone.add(second)
            await tone.promote(number)
            versions = (first, await adapter.blend(("support", first, 0.7), ("tone", number, 1.0)))
        try:
            reference = await reference_answers(
                clients, SWAPPED, OTHER, versions, options.output_tokens, companion=companion
            )
            progress.log(
                f"{len(reference.prompts)} prompts have different answers in versions {versions[0]} and "
                f"{versions[1]}; starting {options.swaps} swaps"
            )
            traffic = Traffic(clients, reference, options.output_tokens)
            async with traffic.running(options.clients):
                swaps, resting = await _alternate(options, adapter, traffic, versions, progress)
            return figures_of(traffic.results, reference, swaps, resting)
        finally:
            await clients.aclose()
            await adapter.restore(*versions)
            if companion is not None:
                await tone.remove()


async def _alternate(
    options: argparse.Namespace,
    adapter: AdapterAdmin,
    traffic: Traffic,
    versions: tuple[int, int],
    progress: ProgressReporter,
) -> tuple[list[Swap], list[tuple[float, float]]]:
    """Alternate phases without and with swaps. Both send the same probes, but only the second promotes."""
    swaps: list[Swap] = []
    resting: list[tuple[float, float]] = []
    serving = versions[0]
    await asyncio.sleep(_STAGGER_S)  # until the clients no longer send at the same moments
    for turn in range(options.turns):
        count = options.swaps * (turn + 1) // options.turns - options.swaps * turn // options.turns
        began_s = traffic.now_s()
        for _ in range(count):
            await traffic.probe(SWAPPED, options.pause)
        resting.append((began_s, traffic.now_s()))
        for _ in range(count):
            serving = versions[1] if serving == versions[0] else versions[0]
            sent_s = traffic.now_s()
            await adapter.promote(serving)
            returned_s = traffic.now_s()
            probe = await traffic.probe(SWAPPED, options.pause)
            swaps.append(Swap(serving, sent_s, returned_s, probe, traffic.now_s()))
        progress.log(
            f"turn {turn + 1} of {options.turns}: {len(swaps)} swaps, {len(traffic.results)} answers"
        )
    return swaps, resting


def figures_of(
    results: Sequence[tuple[str, RequestResult]],
    reference: ReferenceAnswers,
    swaps: Sequence[Swap],
    resting: Sequence[tuple[float, float]],
) -> dict[str, float]:
    """All figures, from (prompt, result) of every request, the swaps and the intervals without swaps."""
    counts = check_answers(results, reference, swaps)
    swapping = [(swap.sent_s, swap.ended_s) for swap in swaps]
    swapping_itl_s, resting_itl_s = (
        itl_within(results, OTHER, intervals) for intervals in (swapping, resting)
    )
    first_s = [swap.probe.event_times_s[0] - swap.sent_s for swap in swaps if swap.probe.event_times_s]
    figures: dict[str, float | None] = {
        "swaps": len(swaps),
        "requests": len(results),
        "failed_requests": counts.failed,
        "mixed_answers": counts.mixed,
        "stale_answers": counts.stale,
        "across_a_swap": counts.across,
        "dated_answers": counts.dated,
        "promote_s": statistics.median(swap.returned_s - swap.sent_s for swap in swaps),
        "promote_to_first_token_s": statistics.median(first_s) if first_s else None,
        "promote_to_first_token_p99_s": percentile(first_s, 99),
    }
    for percent in (50, 99):
        with_s, without_s = percentile(swapping_itl_s, percent), percentile(resting_itl_s, percent)
        figures[f"p{percent}_itl_ratio"] = with_s / without_s if with_s and without_s else None
        figures[f"p{percent}_itl_swapping_ms"] = 1000 * with_s if with_s else None
        figures[f"p{percent}_itl_resting_ms"] = 1000 * without_s if without_s else None
    return {name: round(value, 4) for name, value in figures.items() if value is not None}
