"""Time from the command until the server is ready, and until its first token: ours against stock vLLM, in turns.

    python -m benchmarks startup [--times 5] [--registered 1000]

Both serve the embedded model with the same flags. Ours keeps its data folder from run to run, as a server does; its
very first start, which makes the database and takes the demo's adapters in, is told apart (`startup_fresh_s`). With
`--registered` ours is started again over so many adapters more, in turns with starts without them.
Prints a table, then one JSON object.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import openai
import uvloop

import demo
from benchmarks.harness.environment import machine
from benchmarks.harness.progress import Bars
from benchmarks.harness.report import holds, print_figures, print_json, wide_console
from benchmarks.harness.servers import (
    EngineFlags,
    ServerFailed,
    ServerProcess,
    scratch,
    start_ours,
    start_stock,
)
from benchmarks.serving.options import DEMO_KEYS
from benchmarks.startup.registry import register_copies
from server.config.settings import load

BOUNDS = {"startup_vs_stock": ("<=", 0.7), "registered_adds_s": ("<=", 1.0)}
FLAGS = EngineFlags(model=demo.MODEL_DIR, name=demo.SERVED_NAME, tool_parser="hermes")

OURS, STOCK = "loragate", "stock"

#: Seconds until it is ready, and until the first token of its first answer.
Times = tuple[float, float]


def main(argv: Sequence[str]) -> int:
    """Start both again and again; 0 when the bound holds, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks startup", description="Start-up times.")
    parser.add_argument("--times", type=int, default=5, help="starts of each (default: %(default)s)")
    parser.add_argument(
        "--stock-binding",
        choices=["ours", "default"],
        default="ours",
        help="cores that stock computes on: the same, or those it chooses",
    )
    parser.add_argument("--registered", type=int, default=0, help="also: with so many adapters registered")
    parser.add_argument("--out", type=Path, help="write the JSON here, too")
    parser.add_argument("--quiet", action="store_true", help="say nothing on the way")
    options = parser.parse_args(argv)
    try:
        with scratch() as home:
            flags = replace(FLAGS, bind_cores=options.stock_binding == "ours")
            bars = Bars(quiet=options.quiet)
            figures = measure(flags, home, options.times, bars)
            if options.registered:
                figures |= measure_registered(flags, home, options.registered, options.times, bars)
    except (ServerFailed, openai.APIError) as error:
        print(f"startup: {error}", file=sys.stderr)
        return 1
    print_figures(wide_console(), figures, BOUNDS)
    print_json({**figures, "benchmark": "startup", "times": options.times, "machine": machine()}, options.out)
    return 0 if all(holds(figures[name], *bound) for name, bound in BOUNDS.items() if name in figures) else 1


def measure(flags: EngineFlags, home: Path, times: int, bars: Bars) -> dict[str, float]:
    """Start both in turns, so many times after one start of each that warms the page cache."""
    starters: dict[str, Callable[[], ServerProcess]] = {
        OURS: lambda: start_ours(flags, home, demo=True),
        STOCK: lambda: start_stock(flags, home),
    }
    taken: dict[str, list[Times]] = {name: [] for name in starters}
    for turn in range(times + 1):
        for name in starters if turn % 2 == 0 else reversed(starters):
            ready_s, first_s = start_once(starters[name])
            taken[name].append((ready_s, first_s))
            bars.say(f"{name}, start {turn}: ready after {ready_s:.2f} s, first token after {first_s:.2f} s")
    return figures_of(taken)


def measure_registered(
    flags: EngineFlags, home: Path, count: int, times: int, bars: Bars
) -> dict[str, float]:
    """Seconds that `count` registered adapters add to a start of ours: the median of starts in turns."""
    many = home / "registered"
    shutil.copytree(home / "demo", many / "demo")
    uvloop.run(register_copies(load({"demo": True, "data_dir": many}), count))
    more = []
    for turn in range(times):
        without_s, with_s = (start_once(partial(start_ours, flags, at, demo=True))[0] for at in (home, many))
        more.append(with_s - without_s)
        bars.say(
            f"turn {turn}: ready after {without_s:.2f} s, with {count} adapters more after {with_s:.2f} s"
        )
    return {"registered": count, "registered_adds_s": round(statistics.median(more), 3)}


def figures_of(taken: Mapping[str, Sequence[Times]]) -> dict[str, float]:
    """Medians, and the median of the ratios of starts that followed each other; the first of each is left out."""
    pairs = list(zip(taken[OURS][1:], taken[STOCK][1:], strict=True))
    figures = {
        "startup_vs_stock": statistics.median(ours[0] / stock[0] for ours, stock in pairs),
        "first_token_vs_stock": statistics.median(ours[1] / stock[1] for ours, stock in pairs),
    }
    for name, runs in taken.items():
        figures[f"{name}_ready_s"] = statistics.median(ready_s for ready_s, _ in runs[1:])
        figures[f"{name}_first_token_s"] = statistics.median(first_s for _, first_s in runs[1:])
    figures["startup_fresh_s"] = taken[OURS][0][0]
    return {name: round(value, 4) for name, value in figures.items()}


def start_once(start: Callable[[], ServerProcess]) -> Times:
    """Start a server, ask it one thing, and end it."""
    with start() as server:
        ready_s = server.wait_ready()
        first_answer(server.url)
        return ready_s, time.perf_counter() - server.began_s


def first_answer(url: str) -> None:
    """One token from the base model. Raises: openai.APIError."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=DEMO_KEYS["acme"], max_retries=0) as client:
        client.chat.completions.create(
            model=demo.SERVED_NAME, messages=[{"role": "user", "content": "Hello!"}], max_tokens=1
        )
