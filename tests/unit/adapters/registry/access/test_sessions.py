"""Sessions of people who signed in: found by their secret, until their end, that of their tenant, or too many."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from adapters.errors import UnknownKey, UnknownTenant
from adapters.models import Actor, Role
from adapters.registry import Registry
from adapters.registry.access.sessions import MAX_PER_PERSON, Session
from adapters.registry.database import utc_now

BY = Actor("test")


def session(number: int = 0, **changes: object) -> Session:
    now = utc_now() + timedelta(seconds=number)
    made = Session(
        f"s_{number}", "u_ann", "ann", Role.OPERATOR, None, False, "d" * 64, now, now + timedelta(hours=8)
    )
    return replace(made, **changes)  # type: ignore[arg-type]


async def test_a_session_is_found_by_its_secret_alone_until_it_ends(registry: Registry) -> None:
    made = session()
    secret = await registry.sessions.add(made)
    assert await registry.sessions.find(secret) == made and len(secret) == 43
    for wrong in ("", secret[:-1], secret + "x", made.id):
        with pytest.raises(UnknownKey):
            await registry.sessions.find(wrong)
    await registry.sessions.end(made)
    with pytest.raises(UnknownKey):
        await registry.sessions.find(secret)
    actions = [(entry.actor, entry.action, entry.key_id) for entry in await registry.audit.list(limit=2)]
    assert actions == [("ann (operator)", "session.end", "s_0"), ("ann (operator)", "session.add", "s_0")]


async def test_one_that_is_over_is_not_found_and_deleted_later(registry: Registry) -> None:
    secret = await registry.sessions.add(session(expires_at=utc_now() - timedelta(seconds=1)))
    with pytest.raises(UnknownKey):
        await registry.sessions.find(secret)
    assert await registry.sessions.list() == ()
    await registry.sessions.add(session(0, account="u_bob"))  # the id is free again


async def test_a_person_has_a_bounded_number_of_sessions(registry: Registry) -> None:
    first = await registry.sessions.add(session())
    other = await registry.sessions.add(session(99, account="u_bob"))
    for number in range(1, MAX_PER_PERSON + 1):
        last = await registry.sessions.add(session(number))
    with pytest.raises(UnknownKey):
        await registry.sessions.find(first)
    assert (await registry.sessions.find(last)).id == f"s_{MAX_PER_PERSON}"
    assert (await registry.sessions.find(other)).account == "u_bob"
    assert len(await registry.sessions.list()) == MAX_PER_PERSON + 1
    assert await registry.sessions.end_all("u_ann", by=BY) == MAX_PER_PERSON
    assert [each.account for each in await registry.sessions.list()] == ["u_bob"]


async def test_a_tenants_sessions_end_with_it_and_are_its_own(registry: Registry) -> None:
    of_acme = {"tenant": "acme", "role": Role.TENANT_ADMIN}
    secret = await registry.sessions.add(session(1, **of_acme))
    await registry.sessions.add(session(2))
    assert [each.id for each in await registry.sessions.list("acme")] == ["s_1"]
    assert await registry.sessions.list("globex") == ()
    assert await registry.sessions.end_all("u_ann", by=BY, tenant="globex") == 0
    assert (await registry.sessions.find(secret)).actor.name == "ann (acme)"
    with pytest.raises(UnknownTenant):
        await registry.sessions.add(session(3, tenant="nobody", role=Role.TENANT_ADMIN))
    await registry.tenants.remove("acme", by=BY)
    with pytest.raises(UnknownKey):
        await registry.sessions.find(secret)
