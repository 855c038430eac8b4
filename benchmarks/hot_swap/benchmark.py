"""Versions swapped under load: lost, mixed and stale answers, and what the other tenant feels of it.

    python -m benchmarks swap [--swaps 100] [--url http://127.0.0.1:8000 --operator-key KEY]

Half of the clients stream from `acme-support`, which is swapped between two versions, half from `globex-tools`,
which is left alone. Times of swaps and times of rest take turns, so that `p99_itl_ratio` (the other tenant's
inter-token latency, swapping over resting) compares minutes of the same machine. Without `--url` a demo server is
started. Prints a table, then one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import openai
import uvloop

import demo
from benchmarks.harness.client import Clients, Sample
from benchmarks.harness.environment import machine
from benchmarks.harness.progress import Bars
from benchmarks.harness.report import percentile, print_figures, print_json, wide_console
from benchmarks.harness.servers import EngineFlags, ServerFailed, scratch, start_ours
from benchmarks.hot_swap.load import Alias, Answers, Swap, Traffic, check, gaps_between, solo_answers
from benchmarks.serving.options import DEMO_KEYS
from demo.random_adapter import write_random_adapter

BOUNDS = {
    "failed_requests": ("<=", 0),
    "mixed_answers": ("<=", 0),
    "stale_answers": ("<=", 0),
    "p99_itl_ratio": ("<=", 1.5),
}
SWAPPED, OTHER = "acme-support", "globex-tools"
_SECOND_SEED, _SECOND_SCALE = 11, 1.0


def main(argv: Sequence[str]) -> int:
    """Swap; 0 when every bound holds, else 1."""
    options = _parser().parse_args(argv)
    bars = Bars(quiet=options.quiet)
    try:
        with _server(options.url, bars) as url, scratch() as home:
            second = options.second or write_random_adapter(
                home / "second", seed=_SECOND_SEED, scale=_SECOND_SCALE, rank=16
            )
            figures = uvloop.run(_measure(options, url, second, bars))
    except (ServerFailed, openai.APIError, httpx.HTTPError) as error:
        print(f"swap: {error}", file=sys.stderr)
        return 1
    print_figures(wide_console(), figures, BOUNDS)
    flags = {"swaps": options.swaps, "clients": options.clients, "turns": options.turns}
    print_json({**figures, "benchmark": "swap", "flags": flags, "machine": machine()}, options.out)
    met = {name: figures[name] <= bound for name, (_, bound) in BOUNDS.items()}
    return 0 if all(met.values()) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks swap", description="Swaps under load.")
    add = parser.add_argument
    add("--url", help="a server with the demo's tenants; left out, one is started")
    add("--operator-key", default="demo-admin", help="(default: the demo's)")
    add("--swaps", type=int, default=100, help="(default: %(default)s)")
    add("--clients", type=int, default=16, help="half of them on each tenant (default: %(default)s)")
    add("--turns", type=int, default=5, help="times of swaps, each after one of rest (default: %(default)s)")
    add("--pause", type=float, default=0.3, help="seconds between two swaps (default: %(default)s)")
    add("--output-tokens", type=int, default=48, help="length of every answer (default: %(default)s)")
    add("--second", type=Path, help="folder of the second version (default: random weights)")
    add("--out", type=Path, help="write the JSON here, too")
    add("--quiet", action="store_true", help="say nothing on the way")
    return parser


@contextlib.contextmanager
def _server(url: str | None, bars: Bars) -> Iterator[str]:
    if url is not None:
        yield url
        return
    flags = EngineFlags(model=demo.MODEL_DIR, name=demo.SERVED_NAME)
    with scratch() as home, start_ours(flags, home, demo=True) as server:
        bars.say(f"ready after {server.wait_ready():.1f} s")
        yield server.url


async def _measure(options: argparse.Namespace, url: str, second: Path, bars: Bars) -> dict[str, float]:
    request = {"temperature": 0.0, "extra_body": {"ignore_eos": True}}
    clients = Clients(url, DEMO_KEYS, request)
    async with Alias(url, options.operator_key, "acme", "support") as alias:
        first_number = await alias.version()
        second_number = await alias.add(second)
        try:
            versions = (first_number, second_number)
            solos = await solo_answers(clients, SWAPPED, OTHER, versions, options.output_tokens)
            bars.say(f"{len(solos.prompts)} prompts, answers of {versions} differ; now {options.swaps} swaps")
            traffic = Traffic(clients, solos, options.output_tokens)
            async with traffic.running(options.clients):
                swaps, rests = await _take_turns(options, alias, traffic, versions, bars)
            return figures_of(traffic.samples, solos, swaps, rests)
        finally:
            await clients.aclose()
            await alias.restore(first_number, second_number)


async def _take_turns(
    options: argparse.Namespace, alias: Alias, traffic: Traffic, versions: tuple[int, int], bars: Bars
) -> tuple[list[Swap], list[tuple[float, float]]]:
    """Rest, swap, rest, swap …: a rest does all that a swap does, but for the promotion."""
    swaps: list[Swap] = []
    rests: list[tuple[float, float]] = []
    serving = versions[0]
    await traffic.settled()
    for turn in range(options.turns):
        count = options.swaps * (turn + 1) // options.turns - options.swaps * turn // options.turns
        began_s = traffic.now_s()
        for _ in range(count):
            await traffic.probe(SWAPPED, options.pause)
        rests.append((began_s, traffic.now_s()))
        for _ in range(count):
            serving = versions[1] if serving == versions[0] else versions[0]
            sent_s = traffic.now_s()
            await alias.promote(serving)
            returned_s = traffic.now_s()
            probe = await traffic.probe(SWAPPED, options.pause)
            swaps.append(Swap(serving, sent_s, returned_s, probe, traffic.now_s()))
        bars.say(f"turn {turn + 1} of {options.turns}: {len(swaps)} swaps, {len(traffic.samples)} answers")
    return swaps, rests


def figures_of(
    samples: Sequence[tuple[str, Sample]],
    solos: Answers,
    swaps: Sequence[Swap],
    rests: Sequence[tuple[float, float]],
) -> dict[str, float]:
    """All figures of the benchmark, from (prompt, sample) of every request, the swaps and the times of rest."""
    verdict = check(samples, solos, swaps)
    busy = [(swap.sent_s, swap.over_s) for swap in swaps]
    swapping, resting = (gaps_between(samples, OTHER, times) for times in (busy, rests))
    first_s = [swap.probe.pieces_s[0] - swap.sent_s for swap in swaps if swap.probe.pieces_s]
    figures: dict[str, float | None] = {
        "swaps": len(swaps),
        "requests": len(samples),
        "failed_requests": verdict.failed,
        "mixed_answers": verdict.mixed,
        "stale_answers": verdict.stale,
        "across_a_swap": verdict.across,
        "dated_answers": verdict.dated,
        "promote_s": statistics.median(swap.returned_s - swap.sent_s for swap in swaps),
        "promote_to_first_token_s": statistics.median(first_s) if first_s else None,
        "promote_to_first_token_p99_s": percentile(first_s, 99),
    }
    for percent in (50, 99):
        busy_s, rest_s = percentile(swapping, percent), percentile(resting, percent)
        figures[f"p{percent}_itl_ratio"] = busy_s / rest_s if busy_s and rest_s else None
        figures[f"p{percent}_itl_swapping_ms"] = 1000 * busy_s if busy_s else None
        figures[f"p{percent}_itl_resting_ms"] = 1000 * rest_s if rest_s else None
    return {name: round(value, 4) for name, value in figures.items() if value is not None}
