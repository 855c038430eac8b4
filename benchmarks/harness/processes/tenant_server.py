"""A server of ours on any model, with one tenant and two keys that are known."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import httpx

from adapters.models import SYSTEM, Role, Tenant
from adapters.registry import Registry, connect, migrate
from benchmarks.harness.servers import EngineFlags, ServerProcess, start_ours
from server.config.settings import load

TENANT = "bench"
KEY, OPERATOR_KEY = "bench-inference", "bench-operator"  # of a loopback server that runs for minutes
NAME = "bench-base"


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
