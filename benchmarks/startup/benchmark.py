"""Time from the command until the server is ready and until its first token: ours against stock vLLM in turn.

    python -m benchmarks startup [--times 5] [--registered 1000]

Both serve the embedded model with the same flags. Ours keeps its data folder from start to start, as a server does.
Its first start, which creates the database and registers the demo's adapters, is reported apart (`startup_fresh_s`).
With `--registered N` ours is also started with N more adapters, in turn with starts without them.
Prints a table, then one JSON object.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import openai
import uvloop

import demo
from benchmarks.harness.demo_server import DEMO_FLAGS, DEMO_KEYS
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.report import publish
from benchmarks.harness.servers import (
    LORAGATE,
    STOCK,
    EngineFlags,
    ServerProcess,
    scratch,
    start_ours,
    start_stock,
)
from benchmarks.startup.seed_registry import register_copies
from server.config.settings import load

BOUNDS = {"startup_vs_stock": ("<=", 0.7), "registered_adds_s": ("<=", 1.0)}

#: Seconds until the server is ready, and until the first token of its first answer.
StartTimes = tuple[float, float]


def main(argv: Sequence[str]) -> int:
    """Start both repeatedly; 0 if every bound of a measured figure holds, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks startup", description="Start-up times.")
    add, bindings = parser.add_argument, ["ours", "default"]
    add("--times", type=int, default=5, help="starts of each server (default: %(default)s)")
    add("--stock-binding", choices=bindings, default="ours", help="cores for stock (default: %(default)s)")
    add("--registered", type=int, default=0, metavar="N", help="also measure with N more adapters")
    add("--out", type=Path, help="also write the JSON to this file")
    add("--quiet", action="store_true", help="print no progress")
    options = parser.parse_args(argv)
    with scratch() as home:
        flags = replace(DEMO_FLAGS, bind_cores=options.stock_binding == "ours")
        progress = ProgressReporter(quiet=options.quiet)
        figures = measure(flags, home, options.times, progress)
        if options.registered:
            figures |= measure_registered(flags, home, options.registered, options.times, progress)
    bounds = {name: bound for name, bound in BOUNDS.items() if name in figures}
    return publish("startup", figures, bounds, options.out, times=options.times)


def measure(flags: EngineFlags, home: Path, times: int, progress: ProgressReporter) -> dict[str, float]:
    """Start both in turn `times` times, after one start of each that warms the page cache."""
    starters: dict[str, Callable[[], ServerProcess]] = {
        LORAGATE: lambda: start_ours(flags, home, demo=True),
        STOCK: lambda: start_stock(flags, home),
    }
    taken: dict[str, list[StartTimes]] = {name: [] for name in starters}
    for turn in range(times + 1):
        for name in starters if turn % 2 == 0 else reversed(starters):
            ready_s, first_s = start_once(starters[name])
            taken[name].append((ready_s, first_s))
            progress.log(f"{name}, start {turn}: ready after {ready_s:.2f} s, first token {first_s:.2f} s")
    return figures_of(taken)


def measure_registered(
    flags: EngineFlags, home: Path, count: int, times: int, progress: ProgressReporter
) -> dict[str, float]:
    """Seconds that `count` more registered adapters add to a start of ours: the median over pairs of starts."""
    many = home / "registered"
    shutil.copytree(home / "demo", many / "demo")
    uvloop.run(register_copies(load({"demo": True, "data_dir": many}), count))
    added_s = []
    for turn in range(times):
        without_s, with_s = (start_once(partial(start_ours, flags, at, demo=True))[0] for at in (home, many))
        added_s.append(with_s - without_s)
        progress.log(f"turn {turn}: ready after {without_s:.2f} s, with the adapters {with_s:.2f} s")
    return {"registered": count, "registered_adds_s": round(statistics.median(added_s), 3)}


def figures_of(taken: Mapping[str, Sequence[StartTimes]]) -> dict[str, float]:
    """Medians of the times and of the ratios of consecutive starts, without the first start of each server."""
    pairs = list(zip(taken[LORAGATE][1:], taken[STOCK][1:], strict=True))
    figures = {
        "startup_vs_stock": statistics.median(ours[0] / stock[0] for ours, stock in pairs),
        "first_token_vs_stock": statistics.median(ours[1] / stock[1] for ours, stock in pairs),
    }
    for name, runs in taken.items():
        figures[f"{name}_ready_s"] = statistics.median(ready_s for ready_s, _ in runs[1:])
        figures[f"{name}_first_token_s"] = statistics.median(first_s for _, first_s in runs[1:])
    figures["startup_fresh_s"] = taken[LORAGATE][0][0]
    return {name: round(value, 4) for name, value in figures.items()}


def start_once(start: Callable[[], ServerProcess]) -> StartTimes:
    """Start a server, request one answer, and stop the server."""
    with start() as server:
        ready_s = server.wait_ready()
        first_answer(server.url)
        return ready_s, time.perf_counter() - server.began_s


def first_answer(url: str) -> None:
    """Request one token from the base model. Raises: openai.APIError."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=DEMO_KEYS["acme"], max_retries=0) as client:
        client.chat.completions.create(
            model=demo.SERVED_NAME, messages=[{"role": "user", "content": "Hello!"}], max_tokens=1
        )
