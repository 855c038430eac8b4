"""Multi-LoRA on a real model's shape with random weights: ours against stock vLLM, and against no adapter at all.

    python -m benchmarks lora [--shape qwen2.5-0.5b] [--rounds 3] [--parts speed,many]

speed: bursts of one request per adapter (four, rank 16). Prefill is prompt tokens over the time until all had their
first token; decode is tokens per second while all of them generate. Stock runs as it comes (its own dtype and
threads), and in float32 on the same cores; all servers are up, one works at a moment, and they take turns.
many: 64 adapters of Zipf(1.0) traffic in 8 slots against the same traffic on one. Prints a table, then JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import uvloop

from adapters.artifact import BaseShape
from benchmarks.harness import shapes
from benchmarks.harness.bursts import BurstFailed
from benchmarks.harness.environment import machine
from benchmarks.harness.progress import Bars
from benchmarks.harness.report import holds, print_figures, print_json, wide_console
from benchmarks.harness.servers import EngineFlags, ServerFailed, ServerProcess, scratch, start_stock
from benchmarks.lora.rates import OURS, STOCK, STOCK_F32, many, speed
from benchmarks.lora.servers import (
    NAME,
    RANK,
    add_adapters,
    floors,
    start_bench_server,
    write_adapters,
    write_model,
)

BOUNDS = {
    "prefill_vs_stock": (">=", 6.0),
    "decode_vs_stock": (">=", 3.0),
    "prefill_vs_stock_f32": (">=", 3.3),
    "decode_vs_stock_f32": (">=", 1.5),
    "lora_tax_prefill": (">=", 0.85),
    "lora_tax_decode": (">=", 0.88),
    "adapters_64_vs_1": (">=", 0.75),
}
ADAPTERS, MANY = 4, 64


def main(argv: Sequence[str]) -> int:
    """Measure; 0 when every bound that was measured holds, else 1."""
    options = _parser().parse_args(argv)
    try:
        with scratch() as home:
            figures = _measure(options, home, Bars(quiet=options.quiet))
    except (ServerFailed, BurstFailed, openai.APIError, httpx.HTTPError) as error:
        print(f"lora: {error}", file=sys.stderr)
        return 1
    print_figures(wide_console(), figures, BOUNDS)
    flags = {name: str(value) for name, value in vars(options).items()}
    print_json({**figures, "benchmark": "lora", "flags": flags, "machine": machine()}, options.out)
    met = [holds(figures[name], *bound) for name, bound in BOUNDS.items() if name in figures]
    return 0 if all(met) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks lora", description="Multi-LoRA throughput.")
    add = parser.add_argument
    add("--shape", choices=shapes.names(), default="qwen2.5-0.5b")
    add("--parts", default="speed,many", help="speed, many or both (default: %(default)s)")
    add("--rounds", type=int, default=3, help="turns of each server (default: %(default)s)")
    add("--bursts", type=int, default=3, help="bursts of each kind in a turn (default: %(default)s)")
    add("--prompt-words", type=int, default=200, help="length of prefill's prompts (default: %(default)s)")
    add("--output-tokens", type=int, default=32, help="length of decode's answers (default: %(default)s)")
    add("--seconds", type=float, default=30.0, help="length of a turn with many adapters")
    add("--without", action="append", default=[], choices=[STOCK, STOCK_F32], help="leave a server out")
    add("--out", type=Path, help="write the JSON here, too")
    add("--quiet", action="store_true", help="say nothing on the way")
    return parser


def _measure(options: argparse.Namespace, home: Path, bars: Bars) -> dict[str, float]:
    model = write_model(options.shape, home / "model")
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
    figures: dict[str, float] = {}
    with _servers(
        flags, home, few, options.without if "speed" in options.parts else [STOCK, STOCK_F32]
    ) as up:
        for name, server in up.items():
            bars.say(f"{name} is ready after {server.wait_ready():.1f} s")
        add_adapters(up[OURS].url, few)
        if "speed" in options.parts:
            rates = uvloop.run(speed({name: s.url for name, s in up.items()}, list(few), options, bars))
            figures |= ratios(rates) | _floors(model)
        for name in (STOCK, STOCK_F32):
            if name in up:
                up[name].stop()  # its memory is wanted
        if "many" in options.parts:
            bars.say(f"adding {MANY - ADAPTERS} more adapters")
            add_adapters(up[OURS].url, {n: path for n, path in adapters.items() if n not in few})
            figures |= uvloop.run(many(up[OURS].url, list(adapters), options, bars))
    return {name: round(value, 4) for name, value in figures.items()}


@contextlib.contextmanager
def _servers(
    flags: EngineFlags, home: Path, adapters: Mapping[str, Path], without: Sequence[str]
) -> Iterator[dict[str, ServerProcess]]:
    """All that take part; stock as it comes chooses dtype and cores itself."""
    stock = {
        STOCK: replace(flags, dtype="auto", bind_cores=False),
        STOCK_F32: replace(flags, dtype="float32", bind_cores=True),
    }
    with contextlib.ExitStack() as stack:
        servers = {OURS: stack.enter_context(start_bench_server(flags, home / OURS))}
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
        ours = f"{OURS}_{phase}"
        for name in (STOCK, STOCK_F32):
            if f"{name}_{phase}" in rates:
                figures[f"{phase}_vs_{name}"] = ratio(ours, f"{name}_{phase}")
        figures[f"lora_tax_{phase}"] = ratio(ours, f"{ours}_base")
    return figures | {f"{name}_tokens_per_s": statistics.median(values) for name, values in rates.items()}


def _floors(model: Path) -> dict[str, float]:
    limit = floors(BaseShape.from_config(model / "config.json"), ADAPTERS, RANK)
    return {"lora_tax_prefill_limit": limit.prefill, "lora_tax_decode_limit": limit.decode}
