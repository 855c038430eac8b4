"""The data of `--demo`: two tenants, each with an adapter, and three well-known keys."""

from __future__ import annotations

import json
from contextlib import suppress

import demo
from adapters.errors import AliasConflict, NameTaken, ProofFailed
from adapters.lifecycle import Lifecycle
from adapters.models import SYSTEM, Role, Tenant
from adapters.registry import Registry
from adapters.sources import LocalSource

#: Secret → (tenant, role). They are in the README, so --demo listens on loopback only.
DEMO_KEYS: dict[str, tuple[str | None, Role]] = {
    "demo-acme": ("acme", Role.INFERENCE),
    "demo-globex": ("globex", Role.INFERENCE),
    "demo-admin": (None, Role.OPERATOR),
}


async def add_tenants(registry: Registry) -> None:
    """Add the missing tenants and keys."""
    existing = {tenant.name for tenant in await registry.tenants.list()}
    for name in sorted({adapter.tenant for adapter in demo.ADAPTERS.values()} - existing):
        with suppress(NameTaken):  # another server that starts at the same time was quicker
            await registry.tenants.add(Tenant(name), by=SYSTEM)
    for secret, (tenant, role) in DEMO_KEYS.items():
        try:
            await registry.keys.issue(tenant, role, by=SYSTEM, secret=secret, note="demo")
        except NameTaken:
            continue


async def add_adapters(registry: Registry, lifecycle: Lifecycle) -> None:
    """Serve each embedded adapter under its name, unless an operator has changed what the name serves.

    A data folder of an earlier release gets this release's adapter as a new version.
    """
    for adapter in demo.ADAPTERS.values():
        if not await _is_settled(registry, adapter):
            version = await lifecycle.register(
                adapter.tenant, adapter.name, LocalSource(adapter.path), by=SYSTEM
            )
            # Another server was quicker, or one (--prove-on) cannot load it now; neither ends this one's start.
            with suppress(AliasConflict, ProofFailed):
                await lifecycle.promote(adapter.tenant, adapter.name, version.number, by=SYSTEM)


async def _is_settled(registry: Registry, adapter: demo.DemoAdapter) -> bool:
    """Whether the name already serves the embedded weights, or an operator has moved or removed its traffic."""
    history = await registry.aliases.history(adapter.tenant, adapter.name)
    if not history:
        return False
    if any(change.by != SYSTEM.name for change in history):
        return True
    (target,) = history[0].targets
    served = await registry.versions.get(adapter.tenant, adapter.name, target.number)
    # Two trainings differ at least in their time; the digest of the weights is known only after they are stored.
    return bool(served.training == json.loads((adapter.path / "training.json").read_text(encoding="utf-8")))
