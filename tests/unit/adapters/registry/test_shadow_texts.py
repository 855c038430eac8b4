"""Texts of shadow traffic on both databases: none without a consent, also where it is withdrawn at the same time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from adapters.errors import UnknownAdapter
from adapters.models import Actor
from adapters.registry import Registry
from adapters.registry.database import utc_now
from adapters.registry.figures import shadow_texts as module
from adapters.registry.figures.shadow_texts import ShadowPair

BY = Actor("acme")


def pair(prompt: str, age: timedelta = timedelta()) -> ShadowPair:
    return ShadowPair(2, 1, utc_now() - age, prompt, "served", "shadow")


@pytest.fixture
async def adapter(registry: Registry) -> None:
    await registry.versions.register("acme", "support", "/x", by=BY)


async def test_texts_need_a_consent_and_go_with_it(registry: Registry, adapter: None) -> None:
    texts = registry.shadow_texts
    assert not await texts.keep("acme", "support", pair("early"))
    for _ in range(2):
        await texts.consent("acme", "support", by=BY)
    consent = await texts.consented("acme", "support")
    assert consent is not None and consent.by == "acme"
    assert await texts.keep("acme", "support", pair("one"))
    assert not await texts.keep("acme", "other", pair("one"))
    assert [each.prompt for each in await texts.list("acme", "support", limit=9)] == ["one"]
    await texts.withdraw("acme", "support", by=BY)
    assert await texts.consented("acme", "support") is None
    assert not await texts.keep("acme", "support", pair("late"))
    await texts.consent("acme", "support", by=BY)
    assert await texts.list("acme", "support", limit=9) == ()


async def test_the_newest_are_kept_for_a_while(
    registry: Registry, adapter: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_PER_ADAPTER", 2)
    texts = registry.shadow_texts
    await texts.consent("acme", "support", by=BY)
    for hours in (4, 3, 2):
        await texts.keep("acme", "support", pair(str(hours), timedelta(hours=hours)))
    assert [each.prompt for each in await texts.list("acme", "support", limit=9)] == ["2", "3"]
    assert [each.prompt for each in await texts.list("acme", "support", limit=1)] == ["2"]
    monkeypatch.setattr(module, "KEPT_FOR", timedelta(hours=2.5))
    await texts.forget()
    monkeypatch.undo()
    assert [each.prompt for each in await texts.list("acme", "support", limit=9)] == ["2"]


async def test_an_adapter_that_is_removed_has_neither(registry: Registry, adapter: None) -> None:
    texts = registry.shadow_texts
    await texts.consent("acme", "support", by=BY)
    await texts.keep("acme", "support", pair("one"))
    await registry.adapters.begin_removal("acme", "support", by=BY)
    assert await texts.list("acme", "support", limit=9) == ()
    assert await texts.consented("acme", "support") is None
    with pytest.raises(UnknownAdapter):
        await texts.consent("acme", "support", by=BY)
