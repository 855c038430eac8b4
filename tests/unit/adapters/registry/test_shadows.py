"""Shadow traffic in the database: one shadow per adapter, and sums that several servers add up."""

from __future__ import annotations

import pytest

from adapters.errors import IllegalTransition, UnknownAdapter, UnknownVersion
from adapters.models import Actor, VersionState
from adapters.registry import Registry
from adapters.registry.figures.shadows import Shadow, shadow_of

BY = Actor("test")
ONE = (1.0, 2.0, 4.0, 3.0, 9.0, 1.0)


@pytest.fixture
async def versions(registry: Registry) -> None:
    for _ in range(2):
        version = await registry.versions.register("acme", "support", "/x", by=BY)
        for state in (VersionState.FETCHED, VersionState.VERIFIED, VersionState.READY):
            version = await registry.versions.transition(version, state, by=BY)
    await registry.versions.register("acme", "support", "/x", by=BY)  # 3: not ready


async def test_it_is_set_and_removed(registry: Registry, versions: None) -> None:
    shadow = Shadow(2, 0.05, "acme")
    await registry.shadows.set("acme", "support", shadow, by=BY)
    assert shadow_of((await registry.adapters.resolve("acme", "acme-support")).adapter.shadow) == shadow
    await registry.shadows.set("acme", "support", None, by=BY)
    assert (await registry.adapters.get("acme", "support")).adapter.shadow is None
    details = [each.details for each in await registry.audit.list() if each.action == "adapter.shadow"]
    assert details == [{"off": True}, shadow.as_dict()]


async def test_what_cannot_be_a_shadow(registry: Registry, versions: None) -> None:
    for number, error in ((9, UnknownVersion), (3, IllegalTransition)):
        with pytest.raises(error):
            await registry.shadows.set("acme", "support", Shadow(number, 0.1, ""), by=BY)
    with pytest.raises(UnknownAdapter):
        await registry.shadows.set("globex", "support", Shadow(2, 0.1, ""), by=BY)
    await registry.adapters.begin_removal("acme", "support", by=BY)
    with pytest.raises(UnknownAdapter):
        await registry.shadows.set("acme", "support", Shadow(2, 0.1, ""), by=BY)


async def test_sums_are_added_and_forgotten_when_it_begins_anew(registry: Registry, versions: None) -> None:
    shadows = registry.shadows
    await shadows.add("acme", "support", 2, 1, {"ends": ONE, "loops": ONE})
    await shadows.add("acme", "support", 2, 1, {"ends": ONE})
    await shadows.add("acme", "support", 2, 3, {"ends": ONE})
    await shadows.add("acme", "support", 1, 3, {"ends": ONE})
    await shadows.add("acme", "support", 1, 3, {})
    found = await shadows.sums("acme", "support", 2)
    assert found == {1: {"ends": tuple(2 * value for value in ONE), "loops": ONE}, 3: {"ends": ONE}}
    await shadows.set("acme", "support", Shadow(2, 0.1, ""), by=BY)
    assert await shadows.sums("acme", "support", 2) == {}
    assert await shadows.sums("acme", "support", 1) == {3: {"ends": ONE}}
