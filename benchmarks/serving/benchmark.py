"""Load with the official SDK: latencies, throughput, goodput and errors per tenant and adapter.

    python -m benchmarks serving --url http://127.0.0.1:8000 --tenants acme:8,globex:2 --adapters zipf:1.1 \\
        --arrivals poisson:4 --prompt-tokens lognormal:256 --output-tokens 128 --duration 60
    python -m benchmarks serving --peer vllm --adapters base --arrivals clients:32 --rounds 6

Without `--url` a demo server is started for the run. `--peer vllm` starts stock vLLM of the same version with the
demo's model, adapters and flags; `--peer-url` names any other OpenAI server. Prints tables, then one JSON object.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import uvloop

import demo
from benchmarks.harness import plots
from benchmarks.harness.client import Clients
from benchmarks.harness.compare import GATEWAY, Contender, Plan, compete, ratios
from benchmarks.harness.environment import machine
from benchmarks.harness.load_generator import Run
from benchmarks.harness.progress import Bars
from benchmarks.harness.report import print_figures, print_json, print_table, report, wide_console
from benchmarks.harness.servers import (
    EngineFlags,
    MemoryWatch,
    ServerFailed,
    ServerProcess,
    scratch,
    start_ours,
    start_stock,
)
from benchmarks.harness.workload import BadWorkload, Popularity, Workload
from benchmarks.serving.options import Options, parse
from benchmarks.serving.sweep import Points, sweep

BOUNDS = {
    "gateway_vs_stock_throughput": (">=", 1.0),
    "gateway_vs_stock_ttft_p50": ("<=", 1.05),
    "memory_vs_stock": ("<=", 1.05),
}
STOCK = "stock"
PEER = "peer"
DEMO_FLAGS = EngineFlags(model=demo.MODEL_DIR, name=demo.SERVED_NAME, tool_parser="hermes")

Runs = dict[str, list[Run]]
Figures = dict[str, Any]


def main(argv: Sequence[str]) -> int:
    """Measure; 0 when requests were answered, 1 when none was or a server failed, 2 for a wrong option."""
    try:
        options = parse(argv, description=str(__doc__).splitlines()[0])
        if options.plots is not None:
            plots.load_matplotlib()  # before the minutes that a run takes
        figures, runs = measure(options)
    except (BadWorkload, plots.NoPlots) as error:
        print(f"serving: {error}", file=sys.stderr)
        return 2
    except (ServerFailed, openai.APIError) as error:
        print(f"serving: {error}", file=sys.stderr)
        return 1
    show(figures)
    if options.plots is not None:
        draw(figures, runs, options.plots)
    print_json(figures, options.out)
    return 0 if figures["servers"][GATEWAY]["total"]["output_tokens"] else 1


def measure(options: Options) -> tuple[Figures, Runs]:
    """Start what is to be started, put the load on, and end it again. Raises: ServerFailed, BadWorkload."""
    bars = Bars(quiet=options.quiet)
    with _servers(options, bars) as servers:
        urls = {name: server.url for name, server in servers.items()}
        if options.url is not None:
            urls[GATEWAY] = options.url
        if options.peer_url is not None:
            urls[PEER] = options.peer_url
        with MemoryWatch(servers) as memory:
            figures, runs = uvloop.run(_measure(options, urls, bars))
    return _memory_figures(memory) | figures, runs


@contextlib.contextmanager
def _servers(options: Options, bars: Bars) -> Iterator[dict[str, ServerProcess]]:
    """Those that this benchmark starts itself."""
    with scratch() as home, contextlib.ExitStack() as stack:
        servers: dict[str, ServerProcess] = {}
        if options.url is None:
            servers[GATEWAY] = stack.enter_context(start_ours(DEMO_FLAGS, home, demo=True))
        if options.peer is not None:
            adapters = {name: adapter.path for name, adapter in demo.ADAPTERS.items()}
            flags = replace(DEMO_FLAGS, lora=options.peer == "vllm")
            servers[STOCK] = stack.enter_context(start_stock(flags, home, adapters))
        for name, server in servers.items():
            bars.say(f"{name} is ready after {server.wait_ready():.1f} s")
        yield servers


async def _measure(options: Options, urls: Mapping[str, str], bars: Bars) -> tuple[Figures, Runs]:
    contenders = [Contender(name, Clients(url, options.keys, options.request)) for name, url in urls.items()]
    contenders.sort(key=lambda contender: contender.name != GATEWAY)
    try:
        workload = await _workload(options, contenders[0].clients)
        plan = Plan(workload, options.arrivals, options.extent, options.rounds, options.warm_up_s)
        runs = await compete(contenders, plan, bars)
        sweeps: dict[str, Points] = {}
        for over, values in options.sweeps.items():
            sweeps[over] = await sweep(contenders, plan, over, values, bars)
    finally:
        for contender in contenders:
            await contender.clients.aclose()
    figures: Figures = {}
    if STOCK in runs:
        figures |= ratios(runs, STOCK, "gateway_vs_stock")
    if PEER in runs:
        figures |= ratios(runs, PEER, "gateway_vs_peer")
    figures["servers"] = {name: report(done, options.slo) for name, done in runs.items()}
    if sweeps:
        figures["sweeps"] = sweeps
    return figures | {"benchmark": "serving", "flags": dict(options.flags), "machine": machine()}, runs


async def _workload(options: Options, clients: Clients) -> Workload:
    """The workload, with the models that the server lists, and what its tokenizer makes of a word."""
    first = next(iter(options.tenants))
    models = {tenant: await _models(options, clients, tenant) for tenant in options.tenants}
    return Workload(
        tenants=options.tenants,
        models=models,
        popularity=options.adapters if isinstance(options.adapters, Popularity) else Popularity("uniform"),
        prompt_tokens=options.prompt_tokens,
        output_tokens=options.output_tokens,
        rate=await clients.word_rate(first, models[first][0]),
        seed=options.seed,
    )


async def _models(options: Options, clients: Clients, tenant: str) -> list[str]:
    if isinstance(options.adapters, Popularity):
        models = await clients.models(tenant)
    elif options.adapters == ("base",):
        models = [await clients.base_model(tenant)]
    else:
        models = [name for name in options.adapters if name.startswith(f"{tenant}-")]
    if not models:
        raise BadWorkload(f"tenant {tenant} has no adapter to call; add one, or use --adapters base")
    return models


def _memory_figures(memory: MemoryWatch) -> Figures:
    """Peaks in MiB, and the ratios of those where both sides were started here."""
    figures: Figures = {}
    if {GATEWAY, STOCK} <= memory.peak_bytes.keys():
        figures["memory_vs_stock"] = round(memory.peak_bytes[GATEWAY] / memory.peak_bytes[STOCK], 4)
        figures["memory_pss_vs_stock"] = round(memory.pss_bytes[GATEWAY] / memory.pss_bytes[STOCK], 4)
    peaks = {name: round(peak / 2**20) for name, peak in memory.peak_bytes.items()}
    return figures | ({"peak_rss_mib": peaks} if peaks else {})


def show(figures: Figures) -> None:
    """The tables."""
    console = wide_console()
    for name, server in figures["servers"].items():
        print_table(console, server, name)
    compared = {name: value for name, value in figures.items() if isinstance(value, float)}
    if compared:
        print_figures(console, compared, BOUNDS)


def draw(figures: Figures, runs: Runs, folder: Path) -> None:
    """The plots."""
    samples = {name: [sample for run in done for sample in run.samples] for name, done in runs.items()}
    plots.draw_latencies(samples, folder)
    for over, points in figures.get("sweeps", {}).items():
        plots.draw_throughput(points, over, folder)
