"""A server of ours with one tenant on a real model's shape, and random adapters for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import httpx

from adapters.artifact import BaseShape
from adapters.models import SYSTEM, Role, Tenant
from adapters.registry import Registry, connect, migrate
from benchmarks.harness.servers import EngineFlags, ServerProcess, start_ours
from demo.random_adapter import write_random_adapter
from server.config.settings import load

TENANT = "bench"
KEY, OPERATOR_KEY = "bench-inference", "bench-operator"  # of a loopback server that runs for minutes
NAME = "bench-base"
RANK = 16
_ADAPTER_SCALE = 0.05


def tax_limits(shape: BaseShape, adapters: int, rank: int = RANK) -> dict[str, float]:
    """The highest possible `lora_tax_*`: the work of the base divided by the work of base and adapters.

    Prefill multiplies a row by its own adapter only; a decode step reads the weights of all adapters. The output
    layer counts in decode only, because prefill needs it for one row per request.
    """
    base = shape.layers * sum(a * b for a, b in shape.projections.values())
    lora = shape.layers * rank * sum(a + b for a, b in shape.projections.values())
    read = base + shape.vocab_size * shape.hidden_size
    return {
        "lora_tax_prefill_limit": base / (base + lora),
        "lora_tax_decode_limit": read / (read + adapters * lora),
    }


def write_adapters(model: Path, folder: Path, number: int) -> dict[str, Path]:
    """Write `number` random adapters of rank 16. Returns: public model name → folder."""
    return {
        f"{TENANT}-a{place}": write_random_adapter(
            folder / f"a{place}", seed=place, rank=RANK, scale=_ADAPTER_SCALE, base_dir=model
        )
        for place in range(number)
    }


def start_bench_server(flags: EngineFlags, home: Path) -> ServerProcess:
    """Start `loragate serve` on a new data folder with one tenant and two keys."""
    home.mkdir(parents=True, exist_ok=True)
    asyncio.run(_seed_registry(home))
    return start_ours(flags, home)


async def _seed_registry(home: Path) -> None:
    settings = load({"model": NAME, "data_dir": home})
    await migrate(settings.registry_url)
    database = connect(settings.registry_url)
    try:
        registry = Registry(database)
        await registry.tenants.add(Tenant(TENANT), by=SYSTEM)
        await registry.keys.issue(TENANT, Role.INFERENCE, by=SYSTEM, secret=KEY, note="benchmark")
        await registry.keys.issue(None, Role.OPERATOR, by=SYSTEM, secret=OPERATOR_KEY, note="benchmark")
    finally:
        await database.dispose()


def add_adapters(url: str, adapters: Mapping[str, Path]) -> None:
    """Register and promote adapters. Raises: httpx.HTTPStatusError."""
    headers = {"authorization": f"Bearer {OPERATOR_KEY}"}
    with httpx.Client(base_url=f"{url}/admin/v1", headers=headers, timeout=600) as http:
        for name, folder in adapters.items():
            path = f"/adapters/{TENANT}/{name.removeprefix(f'{TENANT}-')}/versions"
            http.post(path, json={"source": str(folder)}).raise_for_status()
