"""What the server spends beside its model: ours against stock vLLM, with a model that costs nothing.

    python -m benchmarks front [--rounds 3] [--streams 1,32,256,512] [--out front.json] [--plots DIR]

Both servers run the real scheduler, messages, handlers and gateway with `benchmarks.front.executor`: tokens are
invented, and a step lasts at least 15 ms. They take turns. Processor time per token comes from the kernel, so that
other work on the machine hardly changes it; tokens per second and latencies are those of the wall.
Prints tables, then one JSON object.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import demo
from benchmarks.front import scheduler
from benchmarks.front.cases import ANSWER_TOKENS, CASES, PLAIN, Case, arrivals_s, make_load
from benchmarks.front.client import Outcome, run
from benchmarks.front.executor import EXECUTOR
from benchmarks.front.plots import draw_front
from benchmarks.front.processor_time import ProcessorTime, processor_time
from benchmarks.harness.demo_server import DEMO_FLAGS
from benchmarks.harness.environment import check_matplotlib
from benchmarks.harness.errors import BenchmarkFailed
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.report import percentile, publish
from benchmarks.harness.servers import LORAGATE, STOCK, ServerProcess, scratch, start_ours, start_stock

BOUNDS = {
    "api_us_per_token_vs_stock": ("<=", 0.5),
    "engine_us_per_token_vs_stock": ("<=", 1.05),
    "max_tokens_per_s_vs_stock": (">=", 2.0),
    "burst_ttft_p99_vs_stock": ("<=", 0.7),
    "scheduler_share": ("<=", 0.05),
}
#: The number of streams of the figures, and of the burst.
STREAMS = 256
LOADS = (0.25, 0.5, 0.9)
_LOAD_S = 5.0
FLAGS = replace(
    DEMO_FLAGS, executor=EXECUTOR, max_num_seqs=1024, max_num_batched_tokens=16384, kv_cache_bytes=2 << 30
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run against one server."""

    outcome: Outcome
    used: ProcessorTime
    tokens: int

    def figures(self) -> dict[str, float | int | None]:
        """Microseconds of processor time per token, tokens per second, and latencies in milliseconds."""
        outcome, tokens = self.outcome, self.tokens
        return {
            "api_us_per_token": round(1e6 * self.used.api_s / tokens, 2),
            "engine_us_per_token": round(1e6 * self.used.engine_s / tokens, 2),
            "other_us_per_token": round(1e6 * self.used.other_s / tokens, 2),
            "client_us_per_token": round(1e6 * outcome.processor_s / tokens, 2),
            "tokens_per_s": round(tokens / outcome.seconds),
            "tokens_per_event": round(tokens / max(1, outcome.events), 2),
            "ttft_p50_ms": _ms(percentile(outcome.ttft_s, 50)),
            "ttft_p99_ms": _ms(percentile(outcome.ttft_s, 99)),
            "itl_p50_ms": _ms(percentile(outcome.itl_s, 50)),
            "itl_p99_ms": _ms(percentile(outcome.itl_s, 99)),
            "late_ms": _ms(outcome.late_s),
        }


Runs = dict[str, dict[str, list[Measured]]]
"""Name of the run → server → one per round."""


def main(argv: Sequence[str]) -> int:
    """Measure; 0 if every bound holds, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks front", description="Processor time per token."
    )
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="turns of each server (default: %(default)s)")
    add(
        "--streams", default="1,32,256,512", help="streams of the runs without options (default: %(default)s)"
    )
    add("--cases", default=",".join(case.name for case in CASES), help="kinds of request (default: all)")
    add("--no-loads", action="store_true", help="leave out the runs at a part of the highest rate")
    add("--no-scheduler", action="store_true", help="leave out the scheduler's steps")
    add("--out", type=Path, help="also write the JSON to this file")
    add("--plots", type=Path, metavar="DIR", help="also draw the figures into this folder")
    add("--quiet", action="store_true", help="print no progress")
    options = parser.parse_args(argv)
    if options.plots:
        check_matplotlib()
    progress = ProgressReporter(quiet=options.quiet)
    figures, more = measure(options, progress)
    if not options.no_scheduler:
        steps = scheduler.measure(progress)
        figures["scheduler_share"] = max(step["share"] for step in steps)
        more["scheduler"] = steps
    if options.plots:
        draw_front(more["runs"], more["loads"], options.plots)
    bounds = {name: bound for name, bound in BOUNDS.items() if name in figures}
    return publish("front", figures, bounds, options.out, **more)


def measure(
    options: argparse.Namespace, progress: ProgressReporter
) -> tuple[dict[str, float], dict[str, Any]]:
    """Start both servers and put the loads on them in turns. Raises: ServerFailed, BenchmarkFailed."""
    cases = [case for case in CASES if case.name in options.cases.split(",")]
    counts = [int(number) for number in options.streams.split(",")]
    with scratch() as home:
        adapters = {name: adapter.path for name, adapter in demo.ADAPTERS.items()}
        with start_ours(FLAGS, home, demo=True) as ours, start_stock(FLAGS, home, adapters) as stock:
            servers = {LORAGATE: ours, STOCK: stock}
            for name, server in servers.items():
                progress.log(f"{name} is ready after {server.wait_ready():.1f} s")
            runs = _closed_loops(servers, counts, cases, options.rounds, progress)
            loads = {} if options.no_loads else _loads(servers, runs, progress)
    return _ratios(runs), {
        "runs": {name: _medians(done) for name, done in runs.items()},
        "loads": {name: _medians(done) for name, done in loads.items()},
        "rounds": options.rounds,
    }


def _closed_loops(
    servers: Mapping[str, ServerProcess],
    counts: Sequence[int],
    cases: Sequence[Case],
    rounds: int,
    progress: ProgressReporter,
) -> Runs:
    plans = {f"{PLAIN.name}_{streams}": (PLAIN, streams) for streams in counts}
    plans |= {f"{case.name}_{STREAMS}": (case, STREAMS) for case in cases}
    runs: Runs = {name: {server: [] for server in servers} for name in plans}
    for turn in range(-1, rounds):  # the first one warms up
        for name, (case, streams) in plans.items():
            for server in list(servers) if turn % 2 == 0 else reversed(list(servers)):
                load = make_load(case, _port(servers[server]), streams, seed=turn, streams=streams)
                measured = _measured(servers[server], load)
                if turn >= 0:
                    runs[name][server].append(measured)
                    progress.log(f"{name}, {server}, round {turn + 1}: {measured.figures()}")
    return runs


def _loads(servers: Mapping[str, ServerProcess], runs: Runs, progress: ProgressReporter) -> Runs:
    """Requests that arrive at random, at parts of the highest rate that stock reached."""
    highest = _highest(runs, STOCK)
    found: Runs = {}
    for part in LOADS:
        rate = part * highest / ANSWER_TOKENS
        due_s = arrivals_s(rate, max(1, int(rate * _LOAD_S)), seed=1)
        name = f"load_{part:.0%}".rstrip("%")
        found[name] = {}
        for server, process in servers.items():
            load = make_load(PLAIN, _port(process), len(due_s), seed=100, due_s=due_s)
            found[name][server] = [_measured(process, load)]
            progress.log(f"{name}, {server}: {found[name][server][0].figures()}")
    return found


def _measured(server: ServerProcess, load: Any) -> Measured:
    before = processor_time(server)
    outcome = run(load)
    if outcome.failed:
        raise BenchmarkFailed(
            f"{outcome.failed} of {len(load.bodies)} requests to {server.name} failed:\n{server.tail()}"
        )
    return Measured(outcome, processor_time(server).since(before), len(load.bodies) * ANSWER_TOKENS)


def _ratios(runs: Runs) -> dict[str, float]:
    """Ours divided by stock's, within a round; the median of the rounds."""
    figures = {}
    for name, done in runs.items():
        suffix = "" if name == f"{PLAIN.name}_{STREAMS}" else f"_{name}"
        pairs = list(zip(done[LORAGATE], done[STOCK], strict=True))
        figures[f"api_us_per_token_vs_stock{suffix}"] = _median(
            ours.used.api_s / stock.used.api_s for ours, stock in pairs
        )
        figures[f"engine_us_per_token_vs_stock{suffix}"] = _median(
            ours.used.engine_s / stock.used.engine_s for ours, stock in pairs
        )
    figures["max_tokens_per_s_vs_stock"] = round(_highest(runs, LORAGATE) / _highest(runs, STOCK), 4)
    burst = runs.get(f"{PLAIN.name}_{STREAMS}")
    if burst is not None:
        figures["burst_ttft_p99_vs_stock"] = _median(
            (percentile(ours.outcome.ttft_s, 99) or 0.0) / (percentile(stock.outcome.ttft_s, 99) or 1.0)
            for ours, stock in zip(burst[LORAGATE], burst[STOCK], strict=True)
        )
    return figures


def _highest(runs: Runs, server: str) -> float:
    """The highest rate of the runs without options: the median of its rounds."""
    plain = [done[server] for name, done in runs.items() if name.startswith(PLAIN.name)]
    return max(statistics.median(each.tokens / each.outcome.seconds for each in rounds) for rounds in plain)


def _medians(done: Mapping[str, Sequence[Measured]]) -> dict[str, dict[str, float | None]]:
    """The median of each figure over the rounds, per server."""
    found: dict[str, dict[str, float | None]] = {}
    for server, rounds in done.items():
        rows = [each.figures() for each in rounds]
        found[server] = {
            name: None if any(row[name] is None for row in rows) else _median(row[name] or 0 for row in rows)
            for name in rows[0]
        }
    return found


def _median(values: Any) -> float:
    return round(float(statistics.median(values)), 4)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 2)


def _port(server: ServerProcess) -> int:
    return int(server.url.rpartition(":")[2])
