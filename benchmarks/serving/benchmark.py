"""Load with the official SDK: latency, throughput, goodput and errors per tenant and adapter.

    python -m benchmarks serving --url http://127.0.0.1:8000 --tenants acme:8,globex:2 --adapters zipf:1.1 \\
        --arrivals poisson:4 --prompt-tokens lognormal:256 --output-tokens 128 --duration 60
    python -m benchmarks serving --peer vllm --adapters base --arrivals clients:32 --rounds 6

Without `--url` a demo server is started for the run. `--peer vllm` starts stock vLLM of the same version with the
demo's model, adapters and flags; `--peer-url` names any other OpenAI server. Prints tables, then one JSON object.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

import demo
from benchmarks.harness.client import TenantClients
from benchmarks.harness.compare import ComparisonConfig, compare, ratios
from benchmarks.harness.demo_server import DEMO_FLAGS
from benchmarks.harness.environment import check_matplotlib, machine
from benchmarks.harness.errors import InvalidOption
from benchmarks.harness.load_generator import RunResult
from benchmarks.harness.memory import MemorySampler
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.report import print_figures, print_json, print_table, report
from benchmarks.harness.servers import (
    LORAGATE,
    STOCK,
    ServerProcess,
    scratch,
    start_ours,
    start_stock,
)
from benchmarks.harness.workload import Popularity, Workload
from benchmarks.serving import plots
from benchmarks.serving.options import Options, parse
from benchmarks.serving.sweep import SweepPoints, sweep

BOUNDS = {
    "gateway_vs_stock_throughput": (">=", 1.0),
    "gateway_vs_stock_ttft_p50": ("<=", 1.05),
    "memory_vs_stock": ("<=", 1.05),
}
PEER = "peer"

Runs = dict[str, list[RunResult]]
Figures = dict[str, Any]


def main(argv: Sequence[str]) -> int:
    """Measure; 0 if requests were answered, else 1."""
    options = parse(argv, description=str(__doc__).splitlines()[0])
    if options.plots is not None:
        check_matplotlib()
    figures, runs = measure(options)
    show(figures)
    if options.plots is not None:
        draw(figures, runs, options.plots)
    print_json(figures, options.out)
    return 0 if figures["servers"][LORAGATE]["total"]["output_tokens"] else 1


def measure(options: Options) -> tuple[Figures, Runs]:
    """Start the servers, generate the load and stop the servers. Raises: ServerFailed, InvalidOption."""
    progress = ProgressReporter(quiet=options.quiet)
    with _servers(options, progress) as servers:
        urls = {name: server.url for name, server in servers.items()}
        if options.url is not None:
            urls[LORAGATE] = options.url
        if options.peer_url is not None:
            urls[PEER] = options.peer_url
        with MemorySampler(servers) as memory:
            figures, runs = uvloop.run(_measure(options, urls, progress))
    return _memory_figures(memory) | figures, runs


@contextlib.contextmanager
def _servers(options: Options, progress: ProgressReporter) -> Iterator[dict[str, ServerProcess]]:
    with scratch() as home, contextlib.ExitStack() as stack:
        servers: dict[str, ServerProcess] = {}
        if options.url is None:
            servers[LORAGATE] = stack.enter_context(start_ours(DEMO_FLAGS, home, demo=True))
        if options.peer is not None:
            adapters = {name: adapter.path for name, adapter in demo.ADAPTERS.items()}
            flags = replace(DEMO_FLAGS, lora=options.peer == "vllm")
            servers[STOCK] = stack.enter_context(start_stock(flags, home, adapters))
        for name, server in servers.items():
            progress.log(f"{name} is ready after {server.wait_ready():.1f} s")
        yield servers


async def _measure(
    options: Options, urls: Mapping[str, str], progress: ProgressReporter
) -> tuple[Figures, Runs]:
    servers = {name: TenantClients(url, options.keys, options.request) for name, url in urls.items()}
    try:
        workload = await _workload(options, servers[LORAGATE])
        config = ComparisonConfig(
            workload, options.arrivals, options.length, options.rounds, options.warm_up_s
        )
        runs = await compare(servers, config, progress)
        sweeps: dict[str, SweepPoints] = {}
        for parameter, values in options.sweeps.items():
            sweeps[parameter] = await sweep(servers, config, parameter, values, progress)
    finally:
        for clients in servers.values():
            await clients.aclose()
    figures: Figures = {}
    if STOCK in runs:
        figures |= ratios(runs, STOCK, "gateway_vs_stock")
    if PEER in runs:
        figures |= ratios(runs, PEER, "gateway_vs_peer")
    figures["servers"] = {name: report(done, options.slo) for name, done in runs.items()}
    if sweeps:
        figures["sweeps"] = sweeps
    return figures | {"benchmark": "serving", "flags": dict(options.flags), "machine": machine()}, runs


async def _workload(options: Options, clients: TenantClients) -> Workload:
    """The workload, with the models that the server lists and the tokens per word that it counts."""
    first = next(iter(options.tenants))
    models = {tenant: await _models(options, clients, tenant) for tenant in options.tenants}
    return Workload(
        tenants=options.tenants,
        models=models,
        popularity=options.adapters if isinstance(options.adapters, Popularity) else Popularity(),
        prompt_tokens=options.prompt_tokens,
        output_tokens=options.output_tokens,
        word_cost=await clients.word_cost(first, models[first][0]),
        seed=options.seed,
    )


async def _models(options: Options, clients: TenantClients, tenant: str) -> list[str]:
    if isinstance(options.adapters, Popularity) or options.adapters == ("base",):
        models = await clients.models(tenant, adapters=options.adapters != ("base",))
    else:
        models = [name for name in options.adapters if name.startswith(f"{tenant}-")]
    if not models:
        raise InvalidOption(f"Tenant {tenant} has no adapter to call: add one, or use --adapters base.")
    return models


def _memory_figures(memory: MemorySampler) -> Figures:
    """Peaks in MiB, and the ratios if both servers were started here."""
    figures: Figures = {}
    peaks = {name: memory.peak_bytes(name) for name in memory.rss_bytes}
    if {LORAGATE, STOCK} <= peaks.keys():
        figures["memory_vs_stock"] = round(peaks[LORAGATE] / peaks[STOCK], 4)
        figures["memory_pss_vs_stock"] = round(memory.pss_bytes[LORAGATE] / memory.pss_bytes[STOCK], 4)
    peaks_mib = {name: round(peak / 2**20) for name, peak in peaks.items()}
    return figures | ({"peak_rss_mib": peaks_mib} if peaks_mib else {})


def show(figures: Figures) -> None:
    """Print the tables."""
    for name, server in figures["servers"].items():
        print_table(server, name)
    compared = {name: value for name, value in figures.items() if isinstance(value, float)}
    if compared:
        print_figures(compared, BOUNDS)


def draw(figures: Figures, runs: Runs, folder: Path) -> None:
    """Write the plots."""
    results = {name: [result for run in done for result in run.results] for name, done in runs.items()}
    plots.draw_latencies(results, folder)
    for parameter, points in figures.get("sweeps", {}).items():
        plots.draw_throughput(points, parameter, folder)
