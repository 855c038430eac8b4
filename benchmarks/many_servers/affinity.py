"""Whether requests meet their adapters: more adapters than one server holds, of one popularity."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness.admin_client import AdapterAdmin
from benchmarks.harness.demo_server import DEMO_KEYS, OPERATOR_KEY
from benchmarks.harness.errors import BenchmarkFailed
from demo.random_adapter import write_random_adapter

_TENANT, _KEY = "acme", {"authorization": f"Bearer {DEMO_KEYS['acme']}"}
_CLIENTS = 8
_LOADS = "loragate_adapter_load_seconds_count"


async def affinity_hit(front: str, home: Path, adapters: int, requests: int) -> float:
    """Share of the requests that made no server load an adapter, after a warm-up with as many.

    Args:
        front: its url.
        home: an empty folder for the adapters.
        adapters: how many are added and asked for.
        requests: in each half, from 8 clients at a time.
    """
    models = await _add(front, home, adapters)
    choose = random.Random(1)
    async with httpx.AsyncClient(timeout=120, base_url=front) as client:
        await _ask(client, [choose.choice(models) for _ in range(requests)])
        before = await _loads(client)
        await _ask(client, [choose.choice(models) for _ in range(requests)])
        return 1 - (await _loads(client) - before) / requests


async def _add(front: str, home: Path, adapters: int) -> list[str]:
    """Add the adapters; their public names."""
    folder = write_random_adapter(home / "adapter", seed=1)
    names = [f"a{number}" for number in range(adapters)]
    for name in names:
        async with AdapterAdmin(front, OPERATOR_KEY, _TENANT, name) as admin:
            await admin.promote(await admin.add(folder))
    return [f"{_TENANT}-{name}" for name in names]


async def _ask(client: httpx.AsyncClient, models: Sequence[str]) -> None:
    left = list(models)

    async def ask() -> None:
        while left:
            body = {"model": left.pop(), "prompt": "Tell me", "max_tokens": 16, "ignore_eos": True}
            answer = await client.post("/v1/completions", json=body, headers=_KEY)
            if answer.status_code != 200:
                raise BenchmarkFailed(f"The front answered {answer.status_code}: {answer.text[:200]}")

    await asyncio.gather(*(ask() for _ in range(_CLIENTS)))


async def _loads(client: httpx.AsyncClient) -> float:
    """Adapters that were loaded so far, on all servers."""
    text = (await client.get("/metrics")).raise_for_status().text
    families = text_string_to_metric_families(text)
    return sum(sample.value for family in families for sample in family.samples if sample.name == _LOADS)
