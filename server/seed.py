"""What `--demo` starts with: two tenants, three well-known keys, an adapter each."""

from __future__ import annotations

import demo
from adapters.errors import NameTaken
from adapters.lifecycle import Lifecycle
from adapters.records import SYSTEM, Role, Tenant
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
    """Add the embedded adapters that are missing, and serve each under its name."""
    for adapter in demo.ADAPTERS.values():
        alias = await registry.aliases.get(adapter.tenant, adapter.name)
        if alias.generation == 0:
            version = await lifecycle.register(
                adapter.tenant, adapter.name, LocalSource(adapter.path), by=SYSTEM
            )
            await lifecycle.promote(adapter.tenant, adapter.name, version.number, by=SYSTEM)
