"""`python -m benchmarks NAME [options]`: each prints a table, then one JSON object as the last line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from benchmarks.harness.errors import BenchmarkFailed, InvalidOption

#: Name on the command line → (module below this package that has `main(argv)`, description).
BENCHMARKS = {
    "kernel": ("lora.kernel", "The CPU LoRA layer alone: ours, vLLM's and no LoRA."),
    "lora": (
        "lora.benchmark",
        "Multi-LoRA throughput on a real model's shape, against stock vLLM and no adapter.",
    ),
    "decode": (
        "lora.decode.benchmark",
        "Decoding in 16 and 4 bits against the memory's bandwidth, stock vLLM and llama.cpp.",
    ),
    "serving": ("serving.benchmark", "Load from the official SDK: latency and throughput, against a peer."),
    "fairness": (
        "fairness.benchmark",
        "Noisy neighbours, weights and budgets, against vLLM's own scheduler.",
    ),
    "swap": (
        "hot_swap.benchmark",
        "Versions swapped under load: failed and mixed answers, delays of others.",
    ),
    "training": ("training.benchmark", "The trainer against TRL, and the scores of the demo adapters."),
    "gate": (
        "training.promotion_gate",
        "Worse versions refused and better ones promoted: trained, evaluated and decided on a server.",
    ),
    "real": (
        "real.benchmark",
        "A real model trained on a customer's chats, served, compared with peft, and quantized.",
    ),
    "soak": (
        "soak.benchmark",
        "Swaps, rate limits and disconnects for minutes: errors, memory growth, leaks.",
    ),
    "hostile": (
        "hostile.benchmark",
        "One tenant's hostile inputs beside other tenants' short requests.",
    ),
    "limits": (
        "many_servers.limits",
        "Limits that several servers share, with more load than they allow and the database away.",
    ),
    "replicas": (
        "many_servers.replicas",
        "How soon all servers do what one was asked for: adapters, keys, removals.",
    ),
    "cluster": (
        "many_servers.cluster",
        "The front of several servers: added latency, adapters met, and what Ray itself takes.",
    ),
    "front": (
        "front.benchmark",
        "Processor time per token beside a model that costs nothing, against stock vLLM.",
    ),
    "placement": (
        "placement.benchmark",
        "Which of a hundred replicas answers: loragate's policy and others, simulated.",
    ),
    "startup": ("startup.benchmark", "Time from the command to the first answer, against stock vLLM."),
    "newcomer": (
        "startup.newcomer",
        "The first minute on a terminal: seconds of silence, commands to an answer.",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark. Each benchmark has its own options (`NAME --help`) and bounds.

    Returns: 0 if every bound holds, 1 if one does not or there is no result, 2 for an invalid option.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in BENCHMARKS:
        print("usage: python -m benchmarks NAME [--help | options]\n")
        for name, (_, description) in BENCHMARKS.items():
            print(f"  {name:10} {description}")
        return 0 if arguments[:1] in ([], ["--help"], ["-h"]) else 2
    name = arguments[0]
    run = importlib.import_module(f"benchmarks.{BENCHMARKS[name][0]}").main
    import httpx  # not above: importing both would make `--help` slow
    import openai

    try:
        return int(run(arguments[1:]))
    except (BenchmarkFailed, InvalidOption, openai.APIError, httpx.HTTPError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidOption) else 1


if __name__ == "__main__":
    raise SystemExit(main())
