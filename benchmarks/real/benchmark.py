"""A real model end to end: trained on a customer's chats, served, compared with peft, and quantized.

    python -m benchmarks real --model DIR [--home DIR] [--only calls_right,awq_minutes,…]

`--model` is the folder of a real model, such as Qwen2.5-Coder-0.5B-Instruct. It trains the adapters of
docs/jobs/train-your-first-adapter.md, asks the served base and adapter held-out chats and general questions, and
computes some of the answers with peft. Then it quantizes the model, and asks the adapter on it the same.
With `--home` the adapters and the 4-bit model are kept there and used again; an interrupted run goes on.
Prints a table, then one JSON object.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.harness.errors import InvalidOption
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.report import publish
from benchmarks.harness.servers import scratch
from benchmarks.real.awq import measure_adapter, measure_quantizing
from benchmarks.real.journey import Journey
from benchmarks.real.served import measure_served

BOUNDS = {
    "train_minutes": ("<=", 20.0),
    "calls_right": (">=", 0.9),
    "calls_right_base": ("<=", 0.2),
    "general_kept": (">=", 0.9),
    "served_equals_peft": (">=", 50.0),
    "awq_minutes": ("<=", 15.0),
    "awq_perplexity_ratio": ("<=", 1.05),
    "adapter_on_awq_agreement": (">=", 0.8),
}
_SERVED = ("calls_right", "calls_right_base", "general_kept", "served_equals_peft")
_QUANTIZED = ("awq_minutes", "awq_perplexity_ratio")
_ADAPTER_ON_AWQ = "adapter_on_awq_agreement"


def main(argv: Sequence[str]) -> int:
    """Measure; 0 if every bound of a measured figure holds, else 1. Raises: InvalidOption."""
    options = _parser().parse_args(argv)
    wanted = set(options.only.split(","))
    if unknown := wanted - set(BOUNDS):
        raise InvalidOption(f"There is no figure {', '.join(sorted(unknown))}; use {', '.join(BOUNDS)}.")
    if not (options.model / "config.json").is_file():
        raise InvalidOption(f"--model {options.model} is not the folder of a model: it has no config.json.")
    with scratch() as folder:
        figures = _measure(options, wanted, folder, ProgressReporter(quiet=options.quiet))
    bounds = {name: bound for name, bound in BOUNDS.items() if name in wanted}
    return publish("real", figures, bounds, options.out, model=options.model.name)


def _measure(
    options: argparse.Namespace, wanted: set[str], folder: Path, progress: ProgressReporter
) -> dict[str, float]:
    journey = Journey(options.home or folder, options.model)
    flags, quantize = shlex.split(options.train_flags), shlex.split(options.quantize_flags)
    figures: dict[str, float] = {}
    steps: list[tuple[bool, Callable[[], dict[str, float]]]] = [
        (
            wanted != wanted & set(_QUANTIZED),
            lambda: {"train_minutes": journey.train(flags, progress)},
        ),
        (
            bool(wanted & set(_SERVED)),
            lambda: measure_served(
                journey, folder / "server", progress, compare="served_equals_peft" in wanted
            ),
        ),
        (
            bool(wanted & {*_QUANTIZED, _ADAPTER_ON_AWQ}),
            lambda: measure_quantizing(journey, quantize, progress),
        ),
        (_ADAPTER_ON_AWQ in wanted, lambda: measure_adapter(journey, folder, progress)),
    ]
    for needed, step in steps:
        if needed:
            figures |= step()
    return figures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks real",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of the real model")
    add("--home", type=Path, help="folder for adapters and the 4-bit model (default: a temporary one)")
    add("--only", default=",".join(BOUNDS), help="figures, separated by commas (default: %(default)s)")
    add("--train-flags", default="", help="further flags of both trainings, such as '--rank 8 --alpha 16'")
    add("--quantize-flags", default="", help="further flags of `loragate quantize`")
    add("--out", type=Path, help="also write the JSON to this file")
    add("--quiet", action="store_true", help="print no progress")
    return parser
