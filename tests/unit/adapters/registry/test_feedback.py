"""What users said is kept once per request, per tenant, and goes with the tenant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from adapters.models import Actor, Feedback, Rating
from adapters.registry import Registry

NOON = datetime(2026, 3, 1, 12, 40, tzinfo=UTC)
CHAT = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day."})


def said(request_id: str, rating: Rating = Rating.UP, tenant: str = "acme", **more: object) -> Feedback:
    values = {"adapter": "support", "version": 2, "at": NOON} | more
    return Feedback(tenant, request_id, rating=rating, **values)


async def test_the_last_word_counts(registry: Registry) -> None:
    await registry.feedback.put(said("a", reason="tone", comment="curt", messages=CHAT))
    assert await registry.feedback.list() == (said("a", reason="tone", comment="curt", messages=CHAT),)
    await registry.feedback.put(said("a", Rating.DOWN))
    assert await registry.feedback.list() == (said("a", Rating.DOWN),)


async def test_two_tenants_may_use_the_same_request_id(registry: Registry) -> None:
    await registry.feedback.put(said("a"))
    await registry.feedback.put(said("a", Rating.DOWN, tenant="globex"))
    assert await registry.feedback.list(tenant="acme") == (said("a"),)
    assert await registry.feedback.list(rating=Rating.DOWN) == (said("a", Rating.DOWN, tenant="globex"),)


async def test_listings_are_newest_first_and_filtered(registry: Registry) -> None:
    for minute in range(3):
        at = NOON + timedelta(minutes=minute)
        await registry.feedback.put(
            said(f"r{minute}", version=minute, at=at, messages=CHAT if minute else None)
        )
    assert [f.request_id for f in await registry.feedback.list(limit=2)] == ["r2", "r1"]
    assert [f.request_id for f in await registry.feedback.list(adapter="support", version=1)] == ["r1"]
    assert [f.request_id for f in await registry.feedback.list(with_messages=True)] == ["r2", "r1"]
    assert await registry.feedback.list(adapter="sales") == ()


async def test_it_goes_with_the_tenant(registry: Registry) -> None:
    await registry.feedback.put(said("a"))
    await registry.feedback.put(said("b", tenant="globex"))
    await registry.tenants.remove("acme", by=Actor("test"))
    assert [f.request_id for f in await registry.feedback.list()] == ["b"]
