"""`python -m benchmarks NAME [options]`: each prints a table, then one JSON object as the very last line."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence

BENCHMARKS = {
    "kernel": "The CPU LoRA layer alone: ours, vLLM's and none at all.",
    "lora": "Multi-LoRA throughput on a real model's shape, against stock vLLM and against no adapter.",
    "serving": "Load with the official SDK: latencies and throughput per tenant, against a peer in the same run.",
    "fairness": "Noisy neighbours, weights and budgets, against vLLM's own scheduler.",
    "swap": "Versions swapped under load: lost and mixed answers, stalls of other tenants.",
    "training": "The trainer against TRL, and the demo adapters' scores.",
    "soak": "Swaps, limits and disconnects for minutes: errors, growth of memory, what is left behind.",
    "startup": "Time from the command to the first answer, against stock vLLM.",
}


def available() -> dict[str, str]:
    """The benchmarks that this version has."""
    return {name: text for name, text in BENCHMARKS.items() if importlib.util.find_spec(f"benchmarks.{name}")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark; its options are its own (`NAME --help`)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    found = available()
    if not arguments or arguments[0] not in found:
        print("usage: python -m benchmarks NAME [--help | options]\n")
        for name, text in found.items():
            print(f"  {name:10} {text}")
        return 0 if arguments[:1] in ([], ["--help"], ["-h"]) else 2
    module = importlib.import_module(f"benchmarks.{arguments[0]}")
    return int(module.main(arguments[1:]))


if __name__ == "__main__":
    raise SystemExit(main())
