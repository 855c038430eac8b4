"""`loragate plan`: shows what the memory holds, what fits, and which flags to change if it does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from server.cli.options import given, settings_options

if TYPE_CHECKING:
    from server.config.settings import Settings
    from server.planner.advice import Change
    from server.planner.plan import Plan, PlanRequest

_FIELDS = (
    "model", "demo", "max_model_len", "gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_seqs",
    "max_num_batched_tokens", "max_loras", "max_lora_rank", "max_cpu_loras", "dtype", "quantization",
    "tensor_parallel_size", "engine_args", "data_dir", "database_url",
)  # fmt: skip
_NO_SHARE = "{!r} is not TENANT=SHARE with a share from 0 to 1, for example acme=0.25."


@settings_options(*_FIELDS)
@click.command()
@click.option("--memory", help="Memory of one device, for example 24GiB.  [default on a CPU: what is free]")
@click.option(
    "--device",
    type=click.Choice(["cuda", "cpu"]),
    help="Device of the engine.  [default: cuda; with --demo, cpu]",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of full-length sequences that must fit at the same time.",
)
@click.option(
    "--guarantee",
    "guarantees",
    multiple=True,
    metavar="TENANT=SHARE",
    help="A tenant's kv_guarantee; repeat for several tenants.  [default: the tenants in the database]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(
    memory: str | None,
    device: str | None,
    concurrency: int,
    guarantees: tuple[str, ...],
    as_json: bool,
    config: Path | None,
    **flags: Any,
) -> None:
    """Plan the memory of one device. The exit code is 1 if the model does not fit."""
    from server.config.settings import load
    from server.planner.advice import advise
    from server.planner.models import find_shape
    from server.planner.plan import make_plan
    from server.planner.request import main_memory, make_plan_request, parse_bytes

    settings = load(given(flags), config=config)
    device = device or ("cpu" if settings.demo else "cuda")
    if memory is None and device == "cuda":
        raise click.UsageError(
            "There is no memory size: give --memory, for example --memory 24GiB, or --device cpu."
        )
    shape = find_shape(settings.base_model)
    request = make_plan_request(
        settings,
        memory_bytes=parse_bytes(memory) if memory else main_memory()[1],
        device=device,
        concurrency=concurrency,
        guarantees=_shares(guarantees) or _registered(settings),
    )
    made, changes = make_plan(shape, request), advise(shape, request)
    if as_json:
        click.echo(json.dumps(_object(settings.base_model_name, request, made, changes), indent=2))
    else:
        click.echo(render(settings.base_model_name, request, made, changes))
    raise SystemExit(0 if made.fits else 1)


def _shares(guarantees: tuple[str, ...]) -> dict[str, float]:
    shares = {}
    for text in guarantees:
        name, _, share = text.partition("=")
        try:
            shares[name] = float(share)
        except ValueError as error:
            raise click.BadParameter(_NO_SHARE.format(text)) from error
        if not name or not 0 <= shares[name] <= 1:
            raise click.BadParameter(_NO_SHARE.format(text))
    if sum(shares.values()) > 1 + 1e-9:
        terms = " + ".join(f"{share:g} ({name})" for name, share in shares.items())
        raise click.BadParameter(f"{terms} = {sum(shares.values()):g} is above 1; reduce a share.")
    return shares


def _registered(settings: Settings) -> Mapping[str, float]:
    """The guarantees in the database; none where there is no database."""
    if not settings.database_url and not (settings.home / "loragate.db").exists():
        return {}
    from server.cli.storage import with_registry

    tenants = with_registry(settings, lambda registry: registry.tenants.list())
    return {t.name: t.settings.kv_guarantee for t in tenants if t.settings.kv_guarantee > 0}


def _object(model: str, request: PlanRequest, made: Plan, changes: tuple[Change, ...]) -> dict[str, Any]:
    return {
        "model": model,
        "wish": asdict(request),
        "plan": asdict(made) | {"kv_tokens": made.kv_tokens},
        "changes": [{"flags": change.flags, "cost": change.cost} for change in changes],
    }


def render(model: str, request: PlanRequest, made: Plan, changes: tuple[Change, ...]) -> str:
    """The plan as text."""
    from server.planner.plan import gib

    share = gib(request.memory_bytes)
    if request.kv_cache_memory_bytes is None:
        share += f" x {request.gpu_memory_utilization:g}"
    devices = (
        f" on each of {request.tensor_parallel_size} devices" if request.tensor_parallel_size > 1 else ""
    )
    lines = [
        f"{model}, {request.device}{devices}: {share} = {gib(made.usable_bytes)} to use",
        _line("weights", made.weights_bytes),
        _line("LoRA slots", made.lora_slots_bytes, f"{request.max_loras} x {gib(made.lora_slot_bytes)}"),
        _line("activations", made.activations_bytes, "estimate"),
        _line("runtime", made.runtime_bytes, "estimate"),
        _line("KV cache", made.kv_cache_bytes, f"{made.kv_bytes_per_token} bytes per token"),
        "",
        f"A sequence of {made.max_model_len} tokens takes {made.kv_bytes_per_sequence} bytes "
        f"({gib(made.kv_bytes_per_sequence)}) in {made.blocks_per_sequence} blocks "
        f"of {made.block_size_tokens} tokens.",
        f"The cache has {made.kv_blocks} blocks (one is vLLM's own): {made.kv_tokens} tokens, "
        f"{made.full_length_sequences} sequences of full length at the same time.",
        f"Loaded adapters beside the slots: up to {request.adapters_held}, {gib(made.held_adapters_bytes)} "
        f"of main memory.",
    ]
    lines += [f"{name} is guaranteed {n} tokens." for name, n in made.guaranteed_tokens.items()]
    lines.append("")
    if made.fits:
        lines.append(f"It fits, with {request.concurrency} at the same time.")
    else:
        lines += [f"It does not fit: {made.problem}", *advice_lines(changes)]
    return "\n".join(lines)


def advice_lines(changes: tuple[Change, ...]) -> list[str]:
    """What to change, one line each."""
    if not changes:
        return ["No change of flags makes it fit."]
    width = max(len(change.flags) for change in changes)
    head = "Any one of these makes it fit:" if len(changes) > 1 else "This makes it fit:"
    return [head, *(f"  {change.flags:<{width}}  {change.cost}" for change in changes)]


def _line(name: str, count_bytes: int, note: str = "") -> str:
    from server.planner.plan import gib

    return f"  {name:<12} {gib(count_bytes):>11}" + (f"  {note}" if note else "")
