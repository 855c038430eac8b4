"""The options of `python -m benchmarks serving`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.demo_server import DEMO_KEYS
from benchmarks.harness.errors import InvalidOption
from benchmarks.harness.load_generator import RunLength
from benchmarks.harness.report import Slo
from benchmarks.harness.workload import (
    Arrivals,
    Lengths,
    Popularity,
    parse_arrivals,
    parse_lengths,
    parse_popularity,
    parse_shares,
)

SWEEPS = ("clients", "adapters")


@dataclass(frozen=True, slots=True)
class Options:
    """The parsed and checked options."""

    url: str | None
    tenants: Mapping[str, float]
    keys: Mapping[str, str]
    adapters: Popularity | tuple[str, ...]
    arrivals: Arrivals
    prompt_tokens: Lengths
    output_tokens: Lengths
    length: RunLength
    seed: int
    rounds: int
    warm_up_s: float
    slo: Slo
    peer: str | None
    peer_url: str | None
    sweeps: Mapping[str, Sequence[int]]
    request: Mapping[str, Any]
    out: Path | None
    plots: Path | None
    quiet: bool
    flags: Mapping[str, Any]


def parse(argv: Sequence[str], description: str) -> Options:
    """Parse the command line. Raises: InvalidOption (and SystemExit, as argparse does)."""
    given = _parser(description).parse_args(argv)
    if given.url is not None and given.peer is not None:
        raise InvalidOption(
            "--peer starts the demo on both servers: with --url, name the other server with --peer-url."
        )
    extra: dict[str, Any] = {} if given.stop_at_eos else {"ignore_eos": True}
    flags = {name: str(v) if isinstance(v, Path) else v for name, v in vars(given).items() if name != "keys"}
    return Options(
        url=given.url,
        tenants=parse_shares(given.tenants),
        keys=DEMO_KEYS if given.keys is None else parse_keys(given.keys),
        adapters=parse_popularity(given.adapters),
        arrivals=parse_arrivals(given.arrivals),
        prompt_tokens=parse_lengths(given.prompt_tokens, "--prompt-tokens"),
        output_tokens=parse_lengths(given.output_tokens, "--output-tokens"),
        length=RunLength(given.duration, given.requests),
        seed=given.seed,
        rounds=given.rounds,
        warm_up_s=given.warm_up,
        slo=Slo(given.slo_ttft_ms, given.slo_itl_ms, given.slo_e2e_ms),
        peer=given.peer,
        peer_url=given.peer_url,
        sweeps=dict(parse_sweep(text) for text in given.sweep),
        request={"temperature": given.temperature, "extra_body": extra},
        out=given.out,
        plots=given.plots,
        quiet=given.quiet,
        flags=flags,
    )


def parse_keys(text: str) -> dict[str, str]:
    """Parse `acme=KEY,globex=KEY`. Raises: InvalidOption."""
    keys: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        tenant, _, key = part.partition("=")
        if not tenant or not key:
            raise InvalidOption("--keys: use TENANT=KEY,TENANT=KEY.")
        keys[tenant] = key
    return keys


def parse_sweep(text: str) -> tuple[str, tuple[int, ...]]:
    """Parse `clients=1,4,16` into ("clients", (1, 4, 16)). Raises: InvalidOption."""
    name, _, values = text.partition("=")
    try:
        numbers = tuple(int(value) for value in values.split(","))
    except ValueError:
        numbers = ()
    if name not in SWEEPS or not numbers or min(numbers) < 1:
        raise InvalidOption(f"--sweep {text}: use clients=1,4,16 or adapters=1,2,4.")
    return name, numbers


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks serving", description=description)
    add = parser.add_argument
    add("--url", help="the server, without /v1 (default: start a demo server)")
    add("--tenants", default="acme:8,globex:2", help="shares of the requests (default: %(default)s)")
    add("--keys", help="TENANT=KEY,… (default: the demo's keys)")
    add("--adapters", default="zipf:1.1", help="zipf:S, uniform, base or model names (default: %(default)s)")
    add("--arrivals", default="clients:8", help="poisson:R, constant:R or clients:N (default: %(default)s)")
    add("--prompt-tokens", default="lognormal:128", help="N or lognormal:MEAN (default: %(default)s)")
    add("--output-tokens", default="64", help="N or lognormal:MEAN (default: %(default)s)")
    add("--duration", type=float, default=30.0, help="seconds per round (default: %(default)s)")
    add("--requests", type=int, help="a number of requests per round instead of a duration")
    add("--seed", type=int, default=0, help="seed of all random choices (default: %(default)s)")
    add("--rounds", type=int, default=1, help="rounds on each server (default: %(default)s)")
    add("--warm-up", type=float, default=2.0, help="seconds before measuring (default: %(default)s)")
    add("--temperature", type=float, default=0.0, help="(default: %(default)s)")
    add("--stop-at-eos", action="store_true", help="let answers end early (default: exact lengths)")
    add("--slo-ttft-ms", type=float, help="goodput: maximum time to the first token")
    add("--slo-itl-ms", type=float, help="goodput: maximum mean time per token after the first")
    add("--slo-e2e-ms", type=float, help="goodput: maximum time of the whole request")
    peers = parser.add_mutually_exclusive_group()
    peers.add_argument("--peer", choices=["vllm", "vllm-without-lora"], help="start stock vLLM as the peer")
    peers.add_argument("--peer-url", help="another OpenAI server to compare with, without /v1")
    add("--sweep", action="append", default=[], help="measure more values: clients=1,4,16 or adapters=1,2,4")
    add("--out", type=Path, help="also write the JSON to this file")
    add("--plots", type=Path, help="write PNG plots into this folder (needs matplotlib)")
    add("--quiet", action="store_true", help="print no progress")
    return parser
