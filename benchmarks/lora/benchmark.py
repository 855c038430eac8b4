"""Multi-LoRA on a real model's shape with random weights: ours against stock vLLM, and against no adapter.

    python -m benchmarks lora [--shape qwen2.5-0.5b] [--rounds 3] [--parts speed,many]

speed: bursts of one request per adapter (four adapters of rank 16). Prefill is prompt tokens over the time until all
requests had their first token; decode is tokens per second while all of them generate. Stock runs with its default
dtype and threads, and also in float32 on the same cores. All servers are up, and they are measured in turn.
many: Zipf(1.0) traffic on 64 adapters in 8 slots against the same traffic on one adapter.
Prints a table, then one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import uvloop

from adapters.artifact import BaseShape
from benchmarks.harness import shapes
from benchmarks.harness.processes.tenant_server import NAME, add_adapters, start_bench_server
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.report import publish
from benchmarks.harness.servers import (
    LORAGATE,
    STOCK,
    EngineFlags,
    ServerProcess,
    scratch,
    start_stock,
)
from benchmarks.lora.bench_server import tax_limits, write_adapters
from benchmarks.lora.throughput import measure_bursts, measure_many_adapters

BOUNDS = {
    "prefill_vs_stock": (">=", 6.0),
    "decode_vs_stock": (">=", 3.0),
    "prefill_vs_stock_f32": (">=", 3.3),
    "decode_vs_stock_f32": (">=", 1.5),
    "lora_tax_prefill": (">=", 0.85),
    "lora_tax_decode": (">=", 0.88),
    "adapters_64_vs_1": (">=", 0.75),
}
STOCK_F32 = "stock_f32"
ADAPTERS, MANY = 4, 64


def main(argv: Sequence[str]) -> int:
    """Measure; 0 if every bound of a measured figure holds, else 1."""
    options = _parser().parse_args(argv)
    with scratch() as home:
        figures = _measure(options, home, ProgressReporter(quiet=options.quiet))
    bounds = {name: bound for name, bound in BOUNDS.items() if name in figures}
    flags = {name: str(value) for name, value in vars(options).items()}
    return publish("lora", figures, bounds, options.out, flags=flags)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks lora", description="Multi-LoRA throughput.")
    add = parser.add_argument
    add("--shape", choices=shapes.names(), default="qwen2.5-0.5b", help="(default: %(default)s)")
    add("--parts", default="speed,many", help="speed, many or both (default: %(default)s)")
    add("--rounds", type=int, default=3, help="rounds on each server (default: %(default)s)")
    add("--bursts", type=int, default=3, help="bursts of each kind in a round (default: %(default)s)")
    add("--prompt-words", type=int, default=200, help="length of prefill's prompts (default: %(default)s)")
    add("--output-tokens", type=int, default=32, help="length of decode's answers (default: %(default)s)")
    add("--seconds", type=float, default=30.0, help="per round of part many (default: %(default)s)")
    add("--without", action="append", default=[], choices=[STOCK, STOCK_F32], help="leave out a server")
    add("--out", type=Path, help="also write the JSON to this file")
    add("--quiet", action="store_true", help="print no progress")
    return parser


def _measure(options: argparse.Namespace, home: Path, progress: ProgressReporter) -> dict[str, float]:
    model = shapes.write_model(options.shape, home / "model")
    adapters = write_adapters(model, home / "adapters", MANY if "many" in options.parts else ADAPTERS)
    few = dict(list(adapters.items())[:ADAPTERS])
    flags = EngineFlags(
        model=model,
        name=NAME,
        dtype="auto",
        kv_cache_bytes=384 * 1024**2,
        max_num_seqs=32,
        max_cpu_loras=MANY,
        max_model_len=2048,
        load_format="dummy",
    )
    without = options.without if "speed" in options.parts else [STOCK, STOCK_F32]
    figures: dict[str, float] = {}
    with _servers(flags, home, few, without) as servers:
        for name, server in servers.items():
            progress.log(f"{name} is ready after {server.wait_ready():.1f} s")
        url = servers[LORAGATE].url
        add_adapters(url, few)
        if "speed" in options.parts:
            urls = {name: server.url for name, server in servers.items()}
            rates = uvloop.run(measure_bursts(urls, list(few), options, progress))
            shape = BaseShape.from_config(model / "config.json")
            figures |= ratios(rates) | tax_limits(shape, ADAPTERS)
        for name in servers.keys() - {LORAGATE}:
            servers[name].stop()  # the next part needs its memory
        if "many" in options.parts:
            progress.log(f"adding {MANY - ADAPTERS} more adapters")
            add_adapters(url, {name: path for name, path in adapters.items() if name not in few})
            figures |= uvloop.run(measure_many_adapters(url, list(adapters), options, progress))
    return {name: round(value, 4) for name, value in figures.items()}


@contextlib.contextmanager
def _servers(
    flags: EngineFlags, home: Path, adapters: Mapping[str, Path], without: Sequence[str]
) -> Iterator[dict[str, ServerProcess]]:
    """All servers of the comparison; plain stock chooses dtype and cores itself."""
    stock = {
        STOCK: replace(flags, dtype="auto", bind_cores=False),
        STOCK_F32: replace(flags, dtype="float32", bind_cores=True),
    }
    with contextlib.ExitStack() as stack:
        servers = {LORAGATE: stack.enter_context(start_bench_server(flags, home / LORAGATE))}
        for name, its_flags in stock.items():
            if name not in without:
                servers[name] = stack.enter_context(start_stock(its_flags, home / name, adapters))
        yield servers


def ratios(rates: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Medians of the rates, and of the ratios within each round."""

    def ratio(above: str, below: str) -> float:
        return statistics.median(a / b for a, b in zip(rates[above], rates[below], strict=True))

    figures: dict[str, float] = {}
    for phase in ("prefill", "decode"):
        ours = f"{LORAGATE}_{phase}"
        for name in (STOCK, STOCK_F32):
            if f"{name}_{phase}" in rates:
                figures[f"{phase}_vs_{name}"] = ratio(ours, f"{name}_{phase}")
        figures[f"lora_tax_{phase}"] = ratio(ours, f"{ours}_base")
    return figures | {f"{name}_tokens_per_s": statistics.median(values) for name, values in rates.items()}
