"""What is remembered, and for how long."""

from __future__ import annotations

import pytest

from adapters.registry.cache import MAX_STALENESS_S, RegistryCache


class Registry:
    def __init__(self) -> None:
        self.now = 0.0
        self.revision = 1
        self.lookups: list[str] = []
        self.value = "old"

    async def read_revision(self) -> int:
        return self.revision

    async def look_up(self, key: str) -> str:
        self.lookups.append(key)
        if key == "missing":
            raise KeyError(key)
        return self.value

    def cache(self) -> RegistryCache[str, str]:
        return RegistryCache(self.read_revision, self.look_up, clock=lambda: self.now)


async def test_remembers_until_the_revision_moves() -> None:
    registry = Registry()
    cache = registry.cache()
    assert [await cache.get("a") for _ in range(3)] == ["old"] * 3
    assert registry.lookups == ["a"]
    registry.revision, registry.value = 2, "new"
    assert await cache.get("a") == "old", "within the staleness bound"
    registry.now += MAX_STALENESS_S
    assert await cache.get("a") == "new"
    registry.now += MAX_STALENESS_S
    assert await cache.get("a") == "new"
    assert registry.lookups == ["a", "a"]


async def test_failures_are_not_remembered() -> None:
    registry = Registry()
    cache = registry.cache()
    for _ in range(2):
        with pytest.raises(KeyError):
            await cache.get("missing")
    assert registry.lookups == ["missing", "missing"]


async def test_a_look_up_overtaken_by_a_change_is_not_remembered() -> None:
    registry = Registry()
    cache: RegistryCache[str, str] = RegistryCache(
        registry.read_revision, lambda key: overtaken(key), clock=lambda: registry.now
    )

    async def overtaken(key: str) -> str:
        registry.lookups.append(key)
        if len(registry.lookups) == 1:  # while the first look-up is under way, another request sees a change
            registry.revision = 2
            registry.now += MAX_STALENESS_S
            await cache.get("other")
            return "stale"
        return "fresh"

    assert await cache.get("a") == "stale"
    assert await cache.get("a") == "fresh"


async def test_a_change_of_ones_own_is_seen_at_once() -> None:
    registry = Registry()
    changes = 0
    cache: RegistryCache[str, str] = RegistryCache(
        registry.read_revision, registry.look_up, lambda: changes, clock=lambda: registry.now
    )
    assert await cache.get("a") == "old"
    registry.revision, registry.value = 2, "new"
    changes += 1
    assert await cache.get("a") == "new"
