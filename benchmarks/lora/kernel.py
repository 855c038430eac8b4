"""The CPU LoRA layers alone: the time that ours and vLLM's add to the base product, in prefill and decode.

    python -m benchmarks kernel [--shape qwen2.5-0.5b] [--adapters 4] [--rank 16] [--dtype float32]

All times are per layer of the model: the best of several passes over layers with different weights, so that weights
come from memory as they do in a model. The limits are upper bounds of the ratios: prefill must multiply each row by
its own adapter, and decode must read each adapter's weights once per step. Attention, norms and the output head are
left out; in a whole model they make both ratios better.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import shapes
from benchmarks.harness.environment import machine
from benchmarks.harness.report import print_json

if TYPE_CHECKING:
    from server.engine.lora_cpu.timing import Projection, ProjectionTimes


@dataclass(frozen=True, slots=True)
class Phase:
    """A kind of batch: the adapter of each row."""

    name: str
    rows: list[int]


def main(argv: Sequence[str]) -> int:
    """Time both phases; print tables on stderr and one JSON object as the last line of stdout."""
    options = _parser().parse_args(argv)
    if not 1 <= options.adapters <= options.decode_rows:
        _parser().error(
            f"--adapters {options.adapters}: use at least 1 and at most --decode-rows ({options.decode_rows})."
        )
    phases = (
        Phase("prefill", [n for n in range(options.adapters) for _ in range(options.prompt_tokens)]),
        Phase("decode", [n % options.adapters for n in range(options.decode_rows)]),
    )
    console = Console(stderr=True)
    figures: dict[str, Any] = {}
    for phase in phases:
        times = _measure(phase, options)
        _print_table(console, phase, times)
        figures |= _figures(phase, times, options)
    print_json({"benchmark": "kernel", "figures": figures, "options": vars(options), "machine": machine()})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks kernel", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    dtypes = ("float32", "bfloat16", "float16")
    add("--shape", choices=shapes.names(), default="qwen2.5-0.5b", help="(default: %(default)s)")
    add("--adapters", type=int, default=4, help="(default: %(default)s)")
    add("--rank", type=int, default=16, help="rank of the adapters (default: %(default)s)")
    add("--dtype", choices=dtypes, default="float32", help="(default: %(default)s)")
    add("--prompt-tokens", type=int, default=256, help="prefill rows per adapter (default: %(default)s)")
    add("--decode-rows", type=int, default=8, help="rows of a decode step (default: %(default)s)")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="(default: all cores)")
    add("--repeats", type=int, default=20, help="decode passes; prefill has a fifth (default: %(default)s)")
    return parser


def _projections(config: dict[str, Any]) -> list[Projection]:
    """The linear layers of one Qwen2 layer, packed as vLLM packs them."""
    from server.engine.lora_cpu.timing import Projection

    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head = hidden // heads
    key = config["num_key_value_heads"] * head
    return [
        Projection("qkv_proj", hidden, (heads * head, key, key)),
        Projection("o_proj", heads * head, (hidden,)),
        Projection("gate_up_proj", hidden, (inner, inner)),
        Projection("down_proj", inner, (hidden,)),
    ]


def _measure(phase: Phase, options: argparse.Namespace) -> list[ProjectionTimes]:
    from server.engine.lora_cpu.timing import time_projection, use_threads

    use_threads(options.threads)
    repeats = options.repeats if phase.name == "decode" else max(1, options.repeats // 5)
    return [
        time_projection(
            projection,
            phase.rows,
            adapters=options.adapters,
            rank=options.rank,
            dtype=options.dtype,
            repeats=repeats,
        )
        for projection in _projections(shapes.load(options.shape))
    ]


def _figures(phase: Phase, times: Sequence[ProjectionTimes], options: argparse.Namespace) -> dict[str, float]:
    base, ours, stock = (
        sum(getattr(time, name) for time in times) for name in ("base_s", "ours_s", "stock_s")
    )
    adapters_read = 1 if phase.name == "prefill" else options.adapters
    weights = sum(time.projection.width * sum(time.projection.slices) for time in times)
    lora = sum(
        time.projection.width * len(time.projection.slices) + sum(time.projection.slices) for time in times
    )
    return {
        f"kernel_tax_{phase.name}": round(base / (base + ours), 4),
        f"kernel_tax_{phase.name}_stock": round(base / (base + stock), 4),
        f"kernel_tax_{phase.name}_limit": round(weights / (weights + adapters_read * options.rank * lora), 4),
        f"kernel_{phase.name}_vs_stock": round(stock / ours, 2),
    }


def _print_table(console: Console, phase: Phase, times: Sequence[ProjectionTimes]) -> None:
    table = Table(title=f"{phase.name}: {len(phase.rows)} rows", title_justify="left")
    table.add_column("layer")
    for name in ("base µs", "ours adds µs", "vLLM adds µs", "base / with ours", "base / with vLLM's"):
        table.add_column(name, justify="right")
    rows = [(time.projection.name, time.base_s, time.ours_s, time.stock_s) for time in times]
    _, bases, ours_all, stocks = zip(*rows, strict=True)
    rows.append(("all four", sum(bases), sum(ours_all), sum(stocks)))
    for name, base, ours, stock in rows:
        ratios = (base / (base + ours), base / (base + stock))
        table.add_row(name, *(f"{1e6 * s:.0f}" for s in (base, ours, stock)), *(f"{r:.3f}" for r in ratios))
    console.print(table)
