"""Decoding at the speed of the memory: a real model in 16 and 4 bits, against stock vLLM and llama.cpp.

    python -m benchmarks decode --model FOLDER [--quick] [--streams 1,2,4,8,16] [--without llama]

Rates are tokens per second while all streams generate, of the base model and of one and four adapters of rank 16.
All servers are up, and they are measured in turn. The floor is the number of steps in which the memory could deliver
the weights at the bandwidth that this run measured. llama.cpp has the same weights as GGUF, in bfloat16 and Q4_K_M;
it needs requirements/bench-llama.txt and its own package (`benchmarks/lora/decode/llama`). Prints a table, then one
JSON object; `step_…` are milliseconds of one step by part (`step_profile`), with 8 streams.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import uvloop

from benchmarks.harness.client import TenantClients
from benchmarks.harness.errors import BenchmarkFailed, InvalidOption
from benchmarks.harness.processes.tenant_server import KEY, NAME, TENANT, add_adapters, start_bench_server
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.report import publish
from benchmarks.harness.servers import EngineFlags, ServerProcess, scratch, start_stock
from benchmarks.lora.bench_server import write_adapters
from benchmarks.lora.bursts import Burst, decode_rate
from benchmarks.lora.decode.four_bit_model import write_four_bit_model
from benchmarks.lora.decode.gguf_model import quantize, write_gguf
from benchmarks.lora.decode.llama_process import LlamaProcess, library
from benchmarks.lora.decode.memory_floor import read_bandwidth, step_bytes

BOUNDS = {
    "decode_bf16_vs_floor_1": (">=", 0.8),
    "decode_bf16_8_vs_today": (">=", 1.2),
    "decode_4bit_vs_llama_cpp_1": (">=", 1.0),
    "decode_4bit_vs_llama_cpp_8": (">=", 2.0),
    "decode_4bit_vs_bf16_4": (">=", 1.5),
    "decode_4bit_vs_bf16_8": (">=", 1.5),
    "lora_tax_decode_bf16": (">=", 0.88),
    "lora_tax_decode_4bit": (">=", 0.88),
}
ADAPTERS = 4
_WORDS = 8
_REQUEST = {"temperature": 0.0, "extra_body": {"ignore_eos": True, "return_token_ids": True}}
PEERS = ("stock", "llama")
Rates = dict[str, list[float]]


def main(argv: Sequence[str]) -> int:
    """Measure; 0 if every bound of a measured figure holds, else 1."""
    options = _options(argv)
    with scratch() as home:
        figures = _measure(options, home, ProgressReporter(quiet=options.quiet))
    bounds = {name: bound for name, bound in BOUNDS.items() if name in figures}
    flags = {name: str(value) for name, value in vars(options).items()}
    return publish("decode", figures, bounds, options.out, flags=flags)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks decode", description="Rates of decoding.")
    add = parser.add_argument
    default = os.environ.get("LORAGATE_REAL_MODEL")
    add("--model", type=Path, default=default, help="folder of a Qwen2 (default: $LORAGATE_REAL_MODEL)")
    add("--streams", default="1,2,4,8,16", help="(default: %(default)s)")
    add("--tokens", type=int, default=96, help="tokens of each stream (default: %(default)s)")
    add("--rounds", type=int, default=3, help="(default: %(default)s)")
    add("--without", action="append", default=[], choices=PEERS, help="leave out a peer")
    add("--quick", action="store_true", help="1 and 8 streams of 32 tokens, one round, no profile")
    add("--out", type=Path, help="also write the JSON to this file")
    add("--quiet", action="store_true", help="print no progress")
    options = parser.parse_args(argv)
    if options.model is None or not (options.model / "config.json").is_file():
        raise InvalidOption(
            f"--model {options.model}: no folder with a config.json; name a Qwen2 checkpoint."
        )
    if options.quick:
        options.streams, options.tokens, options.rounds = "1,8", 32, 1
    options.streams = [int(number) for number in options.streams.split(",")]
    return options


def _measure(options: argparse.Namespace, home: Path, progress: ProgressReporter) -> dict[str, float]:
    models = {"bf16": options.model, "4bit": write_four_bit_model(options.model, home / "4bit")}
    adapters = write_adapters(options.model, home / "adapters", ADAPTERS)
    bandwidth = read_bandwidth()
    progress.log(f"read bandwidth {bandwidth / 1e9:.1f} GB/s")
    rates: Rates = {}
    with _servers(options, models, home, adapters, progress) as (servers, llamas):
        calls = {name: server.url for name, server in servers.items()}
        uvloop.run(_measure_turns(calls, llamas, list(adapters), options, rates, progress))
    figures = figures_of(rates, {bits: bandwidth / step_bytes(options.model, bits) for bits in models})
    figures["read_bandwidth_gb_per_s"] = bandwidth / 1e9
    if not options.quick:
        figures |= _profiles(models, list(adapters.values()), progress)
    return {name: round(value, 4) for name, value in figures.items()}


@contextlib.contextmanager
def _servers(
    options: argparse.Namespace,
    models: Mapping[str, Path],
    home: Path,
    adapters: Mapping[str, Path],
    progress: ProgressReporter,
) -> Iterator[tuple[dict[str, ServerProcess], dict[str, LlamaProcess]]]:
    """`ours_bf16`, `ours_4bit`, `stock_bf16`, and llama.cpp in both forms: all of them loaded."""
    threads, most = len(os.sched_getaffinity(0)), max(options.streams)
    with contextlib.ExitStack() as stack:
        llamas: dict[str, LlamaProcess] = {}
        if "llama" not in options.without:
            files = {"bf16": write_gguf(options.model, home / "bf16.gguf")}
            files["4bit"] = quantize(library(), files["bf16"], home / "4bit.gguf", threads)
            llamas = {
                f"llama_{b}": stack.enter_context(LlamaProcess(f, threads, most)) for b, f in files.items()
            }
        servers = {
            f"ours_{bits}": stack.enter_context(start_bench_server(_flags(model), home / f"ours_{bits}"))
            for bits, model in models.items()
        }
        if "stock" not in options.without:
            flags = _flags(models["bf16"], dtype="float32" if _emulates_bfloat16() else "auto")
            servers["stock_bf16"] = stack.enter_context(start_stock(flags, home / "stock", adapters))
        for name, server in servers.items():
            progress.log(f"{name} is ready after {server.wait_ready():.1f} s")
            if name.startswith("ours"):
                add_adapters(server.url, adapters)
        yield servers, llamas


def _flags(model: Path, dtype: str = "auto") -> EngineFlags:
    return EngineFlags(
        model=model, name=NAME, dtype=dtype, kv_cache_bytes=256 * 1024**2, max_num_seqs=32, max_loras=ADAPTERS,
        max_cpu_loras=ADAPTERS, max_model_len=2048,
    )  # fmt: skip


def _emulates_bfloat16() -> bool:
    from server.engine.linears_cpu.capability import computes_in_bfloat16

    return not computes_in_bfloat16()


async def _measure_turns(
    urls: Mapping[str, str],
    llamas: Mapping[str, LlamaProcess],
    adapters: Sequence[str],
    options: argparse.Namespace,
    rates: Rates,
    progress: ProgressReporter,
) -> None:
    """Add the rates of all rounds: `{server}_{bits}_{adapters}_{streams}`; the order reverses every round."""
    clients = {name: TenantClients(url, {TENANT: KEY}, _REQUEST) for name, url in urls.items()}
    try:
        for number in range(-1, options.rounds):  # the first is a warm-up
            tokens = 8 if number < 0 else options.tokens
            cases = [
                (n, a, s) for s in options.streams for a in (0, 1, ADAPTERS) for n in (*clients, *llamas)
            ]
            for name, used, streams in cases if number % 2 else reversed(cases):
                if (used > streams) or (used and name in llamas):
                    continue
                if name in llamas:
                    rate = llamas[name].decode_rate(streams, tokens, number + 1)
                else:
                    models = [adapters[place % used] if used else NAME for place in range(streams)]
                    sent = await Burst(_WORDS, tokens).send(clients[name], TENANT, models, seed=number)
                    rate = decode_rate(sent)
                if number >= 0:
                    rates.setdefault(f"{name}_{used}_{streams}", []).append(rate)
                    progress.log(f"{name}, {used} adapters, {streams} streams: {rate:.1f} tokens/s")
    finally:
        for client in clients.values():
            await client.aclose()


def figures_of(rates: Mapping[str, Sequence[float]], floors: Mapping[str, float]) -> dict[str, float]:
    """Medians of the rates, and of the ratios within each round.

    Args:
        rates: `{server}_{bits}_{adapters}_{streams}` → tokens per second of each round.
        floors: `bf16` and `4bit` → steps per second that the memory allows.
    """

    def ratio(above: str, below: str) -> float | None:
        if above not in rates or below not in rates:
            return None
        return statistics.median(a / b for a, b in zip(rates[above], rates[below], strict=True))

    found: dict[str, float | None] = {}
    for streams in sorted({int(name.rpartition("_")[2]) for name in rates}):
        for bits, steps_per_s in floors.items():
            ours = f"ours_{bits}_0_{streams}"
            if ours in rates:
                median = statistics.median(rates[ours])
                found[f"decode_{bits}_vs_floor_{streams}"] = median / (streams * steps_per_s)
            found[f"decode_{bits}_vs_llama_cpp_{streams}"] = ratio(ours, f"llama_{bits}_0_{streams}")
            found[f"decode_{bits}_vs_stock_{streams}"] = ratio(ours, f"stock_{bits}_0_{streams}")
            for used in (1, ADAPTERS):
                found[f"lora_tax_{bits}_{used}_{streams}"] = ratio(f"ours_{bits}_{used}_{streams}", ours)
        found[f"decode_4bit_vs_bf16_{streams}"] = ratio(f"ours_4bit_0_{streams}", f"ours_bf16_0_{streams}")
    for bits in floors:
        taxes = [found.get(f"lora_tax_{bits}_{ADAPTERS}_{streams}") for streams in (4, 8)]
        known = [tax for tax in taxes if tax is not None]
        found[f"lora_tax_decode_{bits}"] = min(known) if known else None
    found |= {f"{name}_tokens_per_s": statistics.median(values) for name, values in rates.items()}
    return {name: value for name, value in found.items() if value is not None}


def _profiles(
    models: Mapping[str, Path], adapters: Sequence[Path], progress: ProgressReporter
) -> dict[str, float]:
    """Milliseconds of a step with 8 streams by part; `decode_bf16_8_vs_today` is against vLLM's linear layers."""
    cases: dict[str, tuple[Path, list[str]]] = {
        "bf16": (models["bf16"], []),
        "bf16_stock_linears": (models["bf16"], ["--stock-linears"]),
        "bf16_lora": (models["bf16"], ["--adapters", *map(str, adapters)]),
        "4bit": (models["4bit"], []),
    }
    steps: dict[str, float] = {}
    for name, (model, more) in cases.items():
        found = _profile([str(model), "--streams", "8", *more])
        steps |= {f"step_{name}_{part}": value for part, value in found.items()}
        progress.log(f"a step of {name}: {found}")
    steps["decode_bf16_8_vs_today"] = steps["step_bf16_stock_linears_step_ms"] / steps["step_bf16_step_ms"]
    return steps


def _profile(arguments: Sequence[str]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.lora.decode.step_profile", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise BenchmarkFailed(f"The profile of a step failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
