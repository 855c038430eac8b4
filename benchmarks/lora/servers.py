"""A server of ours and stock ones on a real model's shape with random weights, and random adapters for it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import demo
from adapters.artifact import BaseShape
from adapters.models import SYSTEM, Role, Tenant
from adapters.registry import Registry, connect, migrate
from benchmarks.harness import shapes
from benchmarks.harness.servers import EngineFlags, ServerProcess, start_ours
from demo.random_adapter import write_random_adapter
from server.config.settings import load

TENANT = "bench"
KEY, OPERATOR_KEY = "bench-inference", "bench-operator"  # of a server on loopback that lives for minutes
NAME = "bench-base"
RANK = 16
_ADAPTER_SCALE = 0.05
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class Floors:
    """The highest that `lora_tax_*` can be: the base's work over the base's and the adapters'."""

    prefill: float
    decode: float


def floors(shape: BaseShape, adapters: int, rank: int = RANK) -> Floors:
    """Prefill multiplies a row by its own adapter only; a decode step reads the weights of all of them.

    The output layer counts in decode alone: prefill needs it for one row per request.
    """
    base = shape.layers * sum(a * b for a, b in shape.projections.values())
    lora = shape.layers * rank * sum(a + b for a, b in shape.projections.values())
    read = base + shape.vocab_size * shape.hidden_size
    return Floors(prefill=base / (base + lora), decode=read / (read + adapters * lora))


def write_model(shape: str, folder: Path) -> Path:
    """A model folder without weights: the shape's config, and the demo's tokenizer and template.

    NOTE: the shape's vocabulary is larger than the tokenizer's, so most random tokens have no text; a benchmark
    counts tokens by the server's usage, not by text.
    """
    folder.mkdir(parents=True)
    for name in _TOKENIZER_FILES:
        shutil.copy(demo.MODEL_DIR / name, folder / name)
    end: dict[str, Any] = json.loads((demo.MODEL_DIR / "config.json").read_text(encoding="utf-8"))
    config = {**shapes.load(shape), "eos_token_id": end["eos_token_id"], "bos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def write_adapters(model: Path, folder: Path, number: int) -> dict[str, Path]:
    """So many random adapters of rank 16: public model name → folder."""
    return {
        f"{TENANT}-a{place}": write_random_adapter(
            folder / f"a{place}", seed=place, rank=RANK, scale=_ADAPTER_SCALE, base_dir=model
        )
        for place in range(number)
    }


def start_bench_server(flags: EngineFlags, home: Path) -> ServerProcess:
    """`loragate serve` on a new data folder that knows one tenant and two keys."""
    home.mkdir(parents=True, exist_ok=True)
    asyncio.run(_seed(home))
    return start_ours(flags, home)


async def _seed(home: Path) -> None:
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
    """Register and promote them. Raises: httpx.HTTPStatusError."""
    headers = {"authorization": f"Bearer {OPERATOR_KEY}"}
    with httpx.Client(base_url=f"{url}/admin/v1", headers=headers, timeout=600) as http:
        for name, folder in adapters.items():
            adapter = name.removeprefix(f"{TENANT}-")
            http.post(
                f"/adapters/{TENANT}/{adapter}/versions", json={"source": str(folder)}
            ).raise_for_status()
