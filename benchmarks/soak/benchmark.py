"""Swaps, rate limits, disconnects and steady traffic for minutes: nothing may fail, grow or be left behind.

    python -m benchmarks soak [--minutes 20] [--clients 8]

Clients request streams and whole answers from two tenants' adapters and the base model. Others open streams and
disconnect, one tenant keeps exceeding its rate limit, and acme's adapter is swapped every few seconds. Memory is the
sum over the server's processes; its growth compares the median of the last tenth of the run with that of the tenth
after the warm-up. A demo server is started on a free port of this machine. Prints a table, then one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import uvloop

from benchmarks.harness.admin_client import AdapterAdmin
from benchmarks.harness.demo_server import DEMO_FLAGS, OPERATOR_KEY
from benchmarks.harness.held_resources import left_behind
from benchmarks.harness.memory import MemorySampler
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.report import publish
from benchmarks.harness.servers import LORAGATE, ServerProcess, scratch, start_ours
from benchmarks.soak.clients import SoakCounters, disconnect_early, exceed_rate_limit, send_requests
from demo.random_adapter import write_random_adapter

BOUNDS = {"errors": ("<=", 0), "rss_growth": ("<=", 0.03), "left_behind": ("<=", 0)}
_SWAP_INTERVAL_S = 3.0
_WARM_UP_S = 60.0
_SETTLE_S = 5.0


def main(argv: Sequence[str]) -> int:
    """Soak; 0 if every bound holds, else 1."""
    options = _parser().parse_args(argv)
    progress = ProgressReporter(quiet=options.quiet)
    flags = replace(DEMO_FLAGS, kv_cache_bytes=256 * 1024**2)
    with scratch() as home, start_ours(flags, home, demo=True) as server:
        progress.log(f"ready after {server.wait_ready():.1f} s; running for {options.minutes:g} minutes")
        second = write_random_adapter(home / "second", seed=11, scale=1.0, rank=16)
        figures, errors = uvloop.run(_soak(options, server, second))
    given = {"minutes": options.minutes, "clients": options.clients}
    return publish("soak", figures, BOUNDS, options.out, error_kinds=errors, flags=given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks soak", description="Swaps, rate limits and disconnects for minutes."
    )
    add = parser.add_argument
    add("--minutes", type=float, default=20.0, help="duration (default: %(default)s)")
    add("--clients", type=int, default=8, help="a third as many others disconnect (default: %(default)s)")
    add("--out", type=Path, help="also write the JSON to this file")
    add("--quiet", action="store_true", help="print no progress")
    return parser


async def _soak(
    options: argparse.Namespace, server: ServerProcess, second: Path
) -> tuple[dict[str, float], dict[str, int]]:
    """The figures, and the errors by kind."""
    counters, duration_s = SoakCounters(), 60 * options.minutes
    limits = httpx.Limits(max_connections=None)
    async with (
        AdapterAdmin(server.url, OPERATOR_KEY, "acme", "support") as adapter,
        httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as http,
    ):
        versions = (await adapter.version(), await adapter.add(second))
        work = [
            *(send_requests(http, counters, number) for number in range(options.clients)),
            *(disconnect_early(http, counters) for _ in range(max(1, options.clients // 3))),
            exceed_rate_limit(http, counters),
            _swap_repeatedly(adapter, versions, counters),
        ]
        with MemorySampler({LORAGATE: server}) as memory:
            tasks = [asyncio.create_task(part) for part in work]
            done, _ = await asyncio.wait(tasks, timeout=duration_s, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()  # a task only ends by an exception
        await asyncio.sleep(_SETTLE_S)
        left = await left_behind(http)
    rss_bytes = memory.rss_bytes[LORAGATE]
    growth = rss_growth(rss_bytes, duration_s)
    figures = counters.figures() | {"rss_growth": growth, "left_behind": left}
    figures["rss_mib"] = rss_bytes[-1][1] / 2**20
    return figures, dict(counters.errors)


def rss_growth(samples: Sequence[tuple[float, int]], duration_s: float) -> float:
    """Relative growth of (seconds, bytes): the last tenth over the tenth after the warm-up, less one."""
    tenth_s = duration_s / 10
    warm_s = min(_WARM_UP_S, 2 * tenth_s)
    early = [rss for at_s, rss in samples if warm_s <= at_s <= warm_s + tenth_s]
    late = [rss for at_s, rss in samples if at_s >= duration_s - tenth_s]
    return statistics.median(late) / statistics.median(early) - 1


async def _swap_repeatedly(adapter: AdapterAdmin, versions: tuple[int, int], counters: SoakCounters) -> None:
    """Promote the versions in turn; a promotion that is refused raises and so ends the soak."""
    while True:
        for version in reversed(versions):
            await asyncio.sleep(_SWAP_INTERVAL_S)
            await adapter.promote(version)
            counters.swaps += 1
