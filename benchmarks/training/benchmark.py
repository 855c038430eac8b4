"""The trainer against TRL's SFTTrainer, the served demo against peft, and the demo's adapters trained again.

    python -m benchmarks training [--parts speed,parity,demo] [--shape qwen2.5-0.5b --layers 6]

`speed` needs TRL (`pip install --no-deps -r requirements/bench-trl.txt`). Ours and TRL, with and without packing,
train the same samples with the same LoRA in turn, each in a process of its own. The ratios compare ours, with its own
choice of packing on this machine, with the faster of TRL's two settings. Losses are compared at every 10th step with
TRL without packing, whose steps hold the same samples.
`parity` serves the demo and compares it with peft. `demo` trains both adapters with and without replay (minutes).
Prints a table, then one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import demo
from benchmarks.harness import shapes
from benchmarks.harness.errors import InvalidOption
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.report import publish
from benchmarks.harness.servers import scratch
from benchmarks.training.demo_adapters import measure_demo
from benchmarks.training.parity import measure_parity
from benchmarks.training.speed import SpeedConfig, measure_speed

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
    """Measure; 0 if every bound of a measured figure holds, else 1. Raises: InvalidOption."""
    options = _options(argv)
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        names = ", ".join(sorted(unknown))
        raise InvalidOption(f"There is no part {names}; use {', '.join(PARTS)}.")
    if "speed" in parts and importlib.util.find_spec("trl") is None:
        install = "pip install --no-deps -r requirements/bench-trl.txt"
        raise InvalidOption(f"speed needs TRL: {install}, or use --parts parity,demo.")
    with scratch() as home:
        figures, more = _measure(parts, options, home, ProgressReporter(quiet=options.quiet))
    bounds = BOUNDS | {"served_equals_peft": (">=", float(options.prompts))}
    measured = {name: bound for name, bound in bounds.items() if name in figures}
    return publish("training", figures, measured, options.out, **more)


def _measure(
    parts: Sequence[str], options: argparse.Namespace, home: Path, progress: ProgressReporter
) -> tuple[dict[str, float], dict[str, Any]]:
    """The figures of the table, and the values that only the JSON has."""
    figures: dict[str, float] = {}
    more: dict[str, Any] = {}
    if "speed" in parts:
        config = SpeedConfig(
            options.shape, options.layers, options.steps, options.batch, options.rounds, options.dtype,
            options.packs_too,
        )  # fmt: skip
        found = measure_speed(config, home, progress)
        figures |= {name: value for name, value in found.items() if isinstance(value, float)}
        more["speed"] = found
    if "parity" in parts:
        parity = measure_parity(home / "server", options.prompts)
        figures |= {"logprob_difference": parity.difference, "served_equals_peft": float(parity.equal)}
        more["prompts"] = parity.prompts
    if "demo" in parts:
        more["demo"] = measure_demo(options.adapters.split(","), home, options.epochs, progress)
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
    add("--parts", default=",".join(PARTS), help="parts, separated by commas (default: %(default)s)")
    add("--shape", choices=shapes.names(), default="qwen2.5-0.5b", help="(default: %(default)s)")
    add("--layers", type=int, default=6, help="layers of the model (default: %(default)s)")
    add("--steps", type=int, default=20, help="optimizer steps of each training (default: %(default)s)")
    add("--batch", type=int, default=4, help="samples per step (default: %(default)s)")
    add("--rounds", type=int, default=2, help="trainings with each trainer (default: %(default)s)")
    add("--packs-too", action="store_true", help="also measure our own packing")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="(default: %(default)s)")
    add("--prompts", type=int, default=PROMPTS, help="held-out prompts for parity (default: %(default)s)")
    add("--adapters", default=",".join(demo.ADAPTERS), help="to train for demo (default: %(default)s)")
    add("--epochs", type=float, help="epochs of the demo's trainings (default: their own)")
    add("--out", type=Path, help="also write the JSON to this file")
    add("--quiet", action="store_true", help="print no progress")
    return parser.parse_args(argv)
