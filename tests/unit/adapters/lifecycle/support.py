"""A lifecycle over a real registry and store, with an engine that checks how it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.depot.depot import Depot
from adapters.lifecycle import Lifecycle, Rules
from adapters.models import Actor
from adapters.registry import Registry
from adapters.residency import Residency
from adapters.sources import LocalSource
from adapters.store.store import Store
from tests.unit.adapters.building import BASE, make_tensors, write_adapter
from tests.unit.adapters.residency.support import CheckingLoader

BY = Actor("test", "k_test")
RULES = Rules(base=BASE, max_lora_rank=16, max_bytes=1 << 20)


@dataclass
class Plant:
    lifecycle: Lifecycle
    registry: Registry
    store: Store
    residency: Residency
    loader: CheckingLoader
    folder: Path
    swap_seconds: list[float]  # what `observe_swap` was called with

    def source(self, seed: int = 0, **parts: Any) -> LocalSource:
        """A folder with an adapter; another seed, other weights."""
        path = self.folder / f"source{seed}"
        return LocalSource(write_adapter(path, make_tensors(seed=seed), **parts))

    async def add(self, seed: int = 0, adapter: str = "support") -> int:
        version = await self.lifecycle.register("acme", adapter, self.source(seed), by=BY)
        return version.number


def another(registry: Registry) -> Registry:
    """The registry as another process sees it, or this one after a restart."""
    return Registry(registry.membership._database.engine, reserved_names={"tiny-base"})


def build_plant(registry: Registry, folder: Path, capacity: int = 3, depot: Depot | None = None) -> Plant:
    loader = CheckingLoader(capacity, load_s=0.005, unload_s=0.002)
    residency = Residency(lambda: loader, capacity, wait_s=0.5, patience_s=0.05, linger_s=0.02)
    loader.residency = residency
    store = Store(folder / "store")
    seconds: list[float] = []
    lifecycle = Lifecycle(registry, store, residency, RULES, depot=depot, observe_swap=seconds.append)
    return Plant(lifecycle, registry, store, residency, loader, folder, seconds)
