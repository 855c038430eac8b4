"""A long day in minutes: swaps, limits, disconnects and steady traffic; nothing may fail, grow or stay behind.

    python -m benchmarks soak [--minutes 20] [--clients 8]

Clients stream and ask for whole answers from two tenants' adapters and the base model; others open streams and leave;
one tenant keeps running into its limit; acme's adapter is swapped every few seconds. Memory is the sum over the
server's processes, the median of the last tenth over that of a tenth after the start. A demo server is started on a
free port of this machine. Prints a table, then one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import uvloop
from prometheus_client.parser import text_string_to_metric_families

import demo
from benchmarks.harness.environment import machine
from benchmarks.harness.progress import Bars
from benchmarks.harness.report import holds, print_figures, print_json, wide_console
from benchmarks.harness.servers import EngineFlags, ServerFailed, ServerProcess, scratch, start_ours
from benchmarks.hot_swap.load import Alias
from benchmarks.soak.clients import OPERATOR_KEY, Counts, ask_for_ever, exceed_for_ever, leave_for_ever
from demo.random_adapter import write_random_adapter

BOUNDS = {"errors": ("<=", 0), "rss_growth": ("<=", 0.03), "left_behind": ("<=", 0)}
#: What may be there before the first and must not be there after the last request.
HELD = (
    "loragate_requests_in_flight",
    "loragate_requests_running",
    "loragate_requests_waiting",
    "loragate_kv_used_blocks",
    "loragate_adapters_held",
)
_SAMPLE_EVERY_S = 2.0
_SWAP_EVERY_S = 3.0
_WARM_UP_S = 60.0
_SETTLE_S = 5.0


@dataclass(slots=True)
class Memory:
    """RSS of all the server's processes, sampled: (seconds since the start, bytes)."""

    samples: list[tuple[float, int]] = field(default_factory=list)

    async def watch(self, server: ServerProcess) -> None:
        """Sample for ever."""
        began_s = time.monotonic()
        while True:
            rss = sum(process.memory_info().rss for process in server.processes())
            self.samples.append((time.monotonic() - began_s, rss))
            await asyncio.sleep(_SAMPLE_EVERY_S)

    def growth(self, duration_s: float) -> float:
        """The last tenth over the tenth after the warm-up, less one."""
        tenth_s = duration_s / 10
        warm_s = min(_WARM_UP_S, 2 * tenth_s)
        early = [rss for at_s, rss in self.samples if warm_s <= at_s <= warm_s + tenth_s]
        late = [rss for at_s, rss in self.samples if at_s >= duration_s - tenth_s]
        return statistics.median(late) / statistics.median(early) - 1


def main(argv: Sequence[str]) -> int:
    """Soak; 0 when every bound holds, else 1."""
    options = _parser().parse_args(argv)
    bars = Bars(quiet=options.quiet)
    flags = EngineFlags(model=demo.MODEL_DIR, name=demo.SERVED_NAME, kv_cache_bytes=256 * 1024**2)
    try:
        with scratch() as home, start_ours(flags, home, demo=True) as server:
            bars.say(f"ready after {server.wait_ready():.1f} s; now {options.minutes:g} minutes")
            second = write_random_adapter(home / "second", seed=11, scale=1.0, rank=16)
            figures, errors = uvloop.run(_soak(options, server, second))
    except (ServerFailed, httpx.HTTPError, psutil.Error) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    print_figures(wide_console(), figures, BOUNDS)
    given = {"minutes": options.minutes, "clients": options.clients}
    result = {**figures, "error_kinds": errors, "benchmark": "soak", "flags": given, "machine": machine()}
    print_json(result, options.out)
    return 0 if all(holds(figures[name], sign, bound) for name, (sign, bound) in BOUNDS.items()) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description="A long day in minutes.")
    add = parser.add_argument
    add("--minutes", type=float, default=20.0, help="(default: %(default)s)")
    add("--clients", type=int, default=8, help="that ask; a third as many leave early (default: %(default)s)")
    add("--out", type=Path, help="write the JSON here, too")
    add("--quiet", action="store_true", help="say nothing on the way")
    return parser


async def _soak(
    options: argparse.Namespace, server: ServerProcess, second: Path
) -> tuple[dict[str, float], dict[str, int]]:
    counts, memory, duration_s = Counts(), Memory(), 60 * options.minutes
    async with (
        Alias(server.url, OPERATOR_KEY, "acme", "support") as alias,
        httpx.AsyncClient(
            base_url=server.url, timeout=120, limits=httpx.Limits(max_connections=None)
        ) as http,
    ):
        versions = (await alias.version(), await alias.add(second))
        work = [
            *(ask_for_ever(http, counts, number) for number in range(options.clients)),
            *(leave_for_ever(http, counts) for _ in range(max(1, options.clients // 3))),
            exceed_for_ever(http, counts),
            _swap_for_ever(alias, versions, counts),
            memory.watch(server),
        ]
        tasks = [asyncio.create_task(part) for part in work]
        done, _ = await asyncio.wait(tasks, timeout=duration_s, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()  # none ends but by an exception
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(_SETTLE_S)
        left = await _left_behind(http)
    figures = counts.figures() | {"rss_growth": memory.growth(duration_s), "left_behind": left}
    figures["rss_mib"] = memory.samples[-1][1] / 2**20
    return figures, dict(counts.errors)


async def _swap_for_ever(alias: Alias, versions: tuple[int, int], counts: Counts) -> None:
    """A promotion that is refused is an error like any other, and raises here."""
    while True:
        for version in reversed(versions):
            await asyncio.sleep(_SWAP_EVERY_S)
            await alias.promote(version)
            counts.swaps += 1


async def _left_behind(http: httpx.AsyncClient) -> float:
    """What is still held when nobody asks any more."""
    text = (await http.get("/metrics")).text
    return sum(
        sample.value
        for found in text_string_to_metric_families(text)
        for sample in found.samples
        if sample.name in HELD
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
