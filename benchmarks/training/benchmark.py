"""The trainer: against TRL's SFTTrainer, on the demo's adapters, and from training to serving.

    python -m benchmarks training [--parts speed,parity,demo] [--shape qwen2.5-0.5b --layers 6]

`speed` needs TRL (`pip install --no-deps -r requirements/bench-trl.txt`). Ours and TRL, packed and not, train the
same samples with the same LoRA in turns, each in a process of its own; the ratios are of what ours does by itself on
this machine, against the faster of TRL's two.
Losses are compared at every 10th step with TRL unpacked, where steps hold the same samples.
`parity` serves the demo and compares it with peft. `demo` trains both adapters with and without replay (minutes).
Prints a table, then one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import demo
from benchmarks.harness import shapes
from benchmarks.harness.environment import machine
from benchmarks.harness.progress import Bars
from benchmarks.harness.report import holds, print_figures, print_json, wide_console
from benchmarks.harness.servers import ServerFailed, scratch
from benchmarks.training.demo_adapters import measure_demo
from benchmarks.training.parity import measure_parity
from benchmarks.training.speed import ChildFailed, Speed, measure_speed

PARTS = ("speed", "parity", "demo")
PROMPTS = 50
BOUNDS = {
    "tokens_per_s_vs_trl": (">=", 1.1),
    "peak_memory_vs_trl": ("<=", 1.0),
    "loss_difference_vs_trl": ("<=", 0.01),
    "logprob_difference": ("<=", 1e-4),
    "served_equals_peft": (">=", float(PROMPTS)),
}


def main(argv: Sequence[str]) -> int:
    """Measure; 0 when every bound holds, else 1."""
    options = _options(argv)
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        print(
            f"training: no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}", file=sys.stderr
        )
        return 2
    if "speed" in parts and importlib.util.find_spec("trl") is None:
        print(
            "training: pip install --no-deps -r requirements/bench-trl.txt, or --parts parity,demo",
            file=sys.stderr,
        )
        return 2
    try:
        with scratch() as home:
            figures, more = _measure(parts, options, home, Bars(quiet=options.quiet))
    except (ServerFailed, ChildFailed) as error:
        print(f"training: {error}", file=sys.stderr)
        return 1
    bounds = BOUNDS | {"served_equals_peft": (">=", float(options.prompts))}
    print_figures(wide_console(), figures, bounds)
    print_json({**figures, **more, "benchmark": "training", "machine": machine()}, options.out)
    return 0 if all(holds(value, *bounds[name]) for name, value in figures.items() if name in bounds) else 1


def _measure(
    parts: Sequence[str], options: argparse.Namespace, home: Path, bars: Bars
) -> tuple[dict[str, float], dict[str, Any]]:
    """The figures of the table, and what is told beside them in the JSON alone."""
    figures: dict[str, float] = {}
    more: dict[str, Any] = {}
    if "speed" in parts:
        speed = Speed(
            options.shape, options.layers, options.steps, options.batch, options.rounds, options.dtype,
            options.packs_too,
        )  # fmt: skip
        found = measure_speed(speed, home, bars)
        figures |= {name: value for name, value in found.items() if isinstance(value, float)}
        more["speed"] = found
    if "parity" in parts:
        parity = measure_parity(home / "server", options.prompts)
        figures |= {"logprob_difference": parity.difference, "served_equals_peft": float(parity.equal)}
        more["prompts"] = parity.asked
    if "demo" in parts:
        more["demo"] = measure_demo(options.adapters.split(","), home, options.epochs, bars)
        for name, kinds in more["demo"].items():
            for kind, values in kinds.items():
                figures |= {f"{name} {kind} {key}": value for key, value in values.items()}
    return figures, more


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--parts", default=",".join(PARTS), help="which, separated by commas (default: %(default)s)")
    add("--shape", choices=shapes.names(), default="qwen2.5-0.5b", help="(default: %(default)s)")
    add("--layers", type=int, default=6, help="layers of it (default: %(default)s)")
    add("--steps", type=int, default=20, help="optimizer steps of each training (default: %(default)s)")
    add("--batch", type=int, default=4, help="samples of a step (default: %(default)s)")
    add("--rounds", type=int, default=2, help="trainings of each (default: %(default)s)")
    add("--packs-too", action="store_true", help="measure our own packing, too")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="of the base's weights")
    add("--prompts", type=int, default=PROMPTS, help="held-out prompts for parity (default: %(default)s)")
    add("--adapters", default=",".join(demo.ADAPTERS), help="which of the demo's (default: %(default)s)")
    add("--epochs", type=float, help="of the demo's trainings, instead of their own")
    add("--out", type=Path, help="write the JSON here, too")
    add("--quiet", action="store_true", help="say nothing on the way")
    return parser.parse_args(argv)
