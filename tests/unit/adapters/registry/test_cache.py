"""What is remembered, and for how long: with a database that answers, and without."""

from __future__ import annotations

import asyncio

import pytest

from adapters.errors import RegistryUnavailable, UnknownAdapter
from adapters.registry import cache as cache_module
from adapters.registry.cache import RegistryCache
from adapters.registry.outages import availability as availability_module
from adapters.registry.outages.availability import MAX_STALENESS_S, Availability

GRACE_S = 60.0


class Registry:
    def __init__(self) -> None:
        self.now = 0.0
        self.revision = 1
        self.away = False
        self.hangs = False
        self.changes = 0
        self.lookups: list[str] = []
        self.value = "old"
        self.availability = Availability(self.read_revision, grace_s=GRACE_S, clock=lambda: self.now)

    async def read_revision(self) -> int:
        await self._answer()
        return self.revision

    async def look_up(self, key: str) -> str:
        self.lookups.append(key)
        await self._answer()
        if key == "missing":
            raise UnknownAdapter(key)
        return self.value

    async def _answer(self) -> None:
        if self.away:
            raise RegistryUnavailable
        if self.hangs:
            await asyncio.sleep(3600)

    def cache(self) -> RegistryCache[str, str]:
        return RegistryCache(self.availability, self.look_up, lambda: self.changes)


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
        with pytest.raises(UnknownAdapter):
            await cache.get("missing")
    assert registry.lookups == ["missing", "missing"]


async def test_a_look_up_overtaken_by_a_change_is_not_remembered() -> None:
    registry = Registry()

    async def overtaken(key: str) -> str:
        registry.lookups.append(key)
        if len(registry.lookups) == 1:  # while the first look-up is under way, another request sees a change
            registry.revision = 2
            registry.now += MAX_STALENESS_S
            await cache.get("other")
            return "stale"
        return "fresh"

    cache: RegistryCache[str, str] = RegistryCache(registry.availability, overtaken)
    assert await cache.get("a") == "stale"
    assert await cache.get("a") == "fresh"


async def test_a_change_of_ones_own_is_seen_at_once() -> None:
    registry = Registry()
    cache = registry.cache()
    assert await cache.get("a") == "old"
    registry.revision, registry.value = 2, "new"
    registry.changes += 1
    assert await cache.get("a") == "new"


async def test_a_look_up_overtaken_by_a_change_of_ones_own_is_not_remembered() -> None:
    registry = Registry()

    async def overtaken(key: str) -> str:
        registry.lookups.append(key)
        registry.changes += len(registry.lookups) == 1
        return "stale" if len(registry.lookups) == 1 else "fresh"

    cache: RegistryCache[str, str] = RegistryCache(registry.availability, overtaken, lambda: registry.changes)
    assert [await cache.get("a"), await cache.get("a")] == ["stale", "fresh"]


async def test_the_oldest_entry_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "MAX_ENTRIES", 2)
    registry = Registry()
    cache = registry.cache()
    for key in "abc":
        await cache.get(key)
    await cache.get("c")
    await cache.get("b")
    assert registry.lookups == ["a", "b", "c"]
    await cache.get("a")
    assert registry.lookups == ["a", "b", "c", "a"]


async def test_without_the_database_an_entry_lasts_for_the_grace_and_not_longer() -> None:
    registry = Registry()
    cache = registry.cache()
    await cache.get("a")
    registry.away = True
    for seconds in (MAX_STALENESS_S, 30.0, GRACE_S - 0.001):
        registry.now = seconds
        assert await cache.get("a") == "old"
    registry.now = GRACE_S
    with pytest.raises(RegistryUnavailable, match="the grace of 60 s is over"):
        await cache.get("a")
    registry.away, registry.value, registry.revision = False, "new", 2
    assert await cache.get("a") == "new"


async def test_without_the_database_an_unknown_key_is_not_said_to_be_unknown() -> None:
    registry = Registry()
    cache = registry.cache()
    with pytest.raises(UnknownAdapter):
        await cache.get("missing")
    registry.away = True
    registry.now += MAX_STALENESS_S
    for key in ("missing", "never seen"):
        with pytest.raises(RegistryUnavailable, match="was not in use a moment ago, so it cannot be checked"):
            await cache.get(key)


async def test_an_entry_of_an_older_revision_lasts_for_the_grace_since_it_was_right() -> None:
    registry = Registry()
    cache = registry.cache()
    await cache.get("a")
    registry.now, registry.revision = 50.0, 2
    assert await registry.availability.state() == 2  # another key was asked for, and a change seen
    registry.away = True
    registry.now = 55.0
    assert await cache.get("a") == "old", "right until the change, which was seen at 50 s, at least at 0 s"
    registry.now = GRACE_S
    with pytest.raises(RegistryUnavailable):
        await cache.get("a")


async def test_an_entry_that_a_change_of_ones_own_may_have_ended_is_not_used() -> None:
    registry = Registry()
    cache = registry.cache()
    await cache.get("a")
    registry.changes += 1  # as a revocation by this server's admin API
    registry.away = True
    registry.now += MAX_STALENESS_S
    with pytest.raises(RegistryUnavailable):
        await cache.get("a")


async def test_an_entry_that_the_database_no_longer_has_is_forgotten() -> None:
    registry = Registry()
    gone = False

    async def look_up(key: str) -> str:
        if gone:
            raise UnknownAdapter(key)
        return await registry.look_up(key)

    cache: RegistryCache[str, str] = RegistryCache(registry.availability, look_up)
    await cache.get("a")
    gone, registry.revision, registry.now = True, 2, 1.0
    with pytest.raises(UnknownAdapter):
        await cache.get("a")
    gone, registry.away, registry.now = False, True, 2.0
    with pytest.raises(RegistryUnavailable):
        await cache.get("a")


async def test_a_look_up_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "LOOK_UP_TIMEOUT_S", 0.01)
    monkeypatch.setattr(availability_module, "PROBE_TIMEOUT_S", 0.01)
    registry = Registry()
    cache = registry.cache()
    await cache.get("a")
    registry.hangs = True
    with pytest.raises(RegistryUnavailable):
        await cache.get("b")
    registry.now += MAX_STALENESS_S
    assert await cache.get("a") == "old"
