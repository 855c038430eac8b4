"""What `--demo` starts with: two tenants, three well-known keys, an adapter each."""

from __future__ import annotations

import json

import demo
from adapters.errors import NameTaken
from adapters.lifecycle import Lifecycle
from adapters.models import SYSTEM, Role, Tenant
from adapters.registry import Registry
from adapters.sources import LocalSource

#: Secret → (tenant, role). They are in the README, which is why --demo listens on loopback only.
DEMO_KEYS: dict[str, tuple[str | None, Role]] = {
    "demo-acme": ("acme", Role.INFERENCE),
    "demo-globex": ("globex", Role.INFERENCE),
    "demo-admin": (None, Role.OPERATOR),
}


async def add_tenants(registry: Registry) -> None:
    """Add what is missing of tenants and keys."""
    there = {tenant.name for tenant in await registry.tenants.list()}
    for name in sorted({adapter.tenant for adapter in demo.ADAPTERS.values()} - there):
        await registry.tenants.add(Tenant(name), by=SYSTEM)
    for secret, (tenant, role) in DEMO_KEYS.items():
        try:
            await registry.keys.issue(tenant, role, by=SYSTEM, secret=secret, note="demo")
        except NameTaken:
            continue


async def add_adapters(registry: Registry, lifecycle: Lifecycle) -> None:
    """Serve each embedded adapter under its name, until somebody else decides what the name stands for.

    A data folder of an earlier release gets this one's as a new version.
    """
    for adapter in demo.ADAPTERS.values():
        if not await _is_settled(registry, adapter):
            version = await lifecycle.register(
                adapter.tenant, adapter.name, LocalSource(adapter.path), by=SYSTEM
            )
            await lifecycle.promote(adapter.tenant, adapter.name, version.number, by=SYSTEM)


async def _is_settled(registry: Registry, adapter: demo.DemoAdapter) -> bool:
    """Whether the name has the embedded weights already, or somebody moved its traffic or took it away."""
    history = await registry.aliases.history(adapter.tenant, adapter.name)
    if not history:
        return False
    if any(change.by != SYSTEM.name for change in history):
        return True
    (target,) = history[0].targets
    served = await registry.versions.get(adapter.tenant, adapter.name, target.number)
    # Of two trainings at least the time differs; the weights' digest is known only once they are stored.
    return bool(served.training == json.loads((adapter.path / "training.json").read_text(encoding="utf-8")))
