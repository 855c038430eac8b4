from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from adapters.errors import BadName, BadValue, InUse, NameTaken, UnknownKey, UnknownTenant
from adapters.models import Actor, Role, Tenant
from adapters.registry import Registry
from adapters.registry.access.keys import hash_secret
from adapters.registry.database import utc_now
from adapters.registry.schema import tables
from adapters.tenant_settings import BudgetPeriod, TenantSettings

BY = Actor("test", "k_test")


async def test_a_tenant_keeps_every_setting(registry: Registry) -> None:
    settings = TenantSettings(
        weight=2.5,
        kv_guarantee=0.25,
        kv_limit=0.5,
        max_concurrency=4,
        rpm=60,
        tpm=10_000,
        token_budget=1_000_000,
        budget_period=BudgetPeriod.DAY,
        sampling_defaults={"temperature": 0.2},
        limits={"max_tokens": 512},
    )
    wanted = Tenant("initech", settings)
    added = await registry.tenants.add(wanted, by=BY)
    assert added.created_at is not None and added.created_at.tzinfo is UTC
    assert await registry.tenants.get("initech") == added
    assert [tenant.name for tenant in await registry.tenants.list()] == ["acme", "globex", "initech"]


async def test_settings_change_and_are_checked_together(registry: Registry) -> None:
    changed = await registry.tenants.set("acme", {"rpm": 7, "kv_guarantee": 0.5}, by=BY)
    assert (changed.settings.rpm, changed.settings.kv_guarantee) == (7, 0.5)
    assert await registry.tenants.get("acme") == changed
    assert (await registry.tenants.set("acme", {"rpm": None}, by=BY)).settings.rpm is None
    with pytest.raises(BadValue, match=r"kv_guarantee 0.5 is above kv_limit 0.4"):
        await registry.tenants.set("acme", {"kv_limit": 0.4}, by=BY)
    with pytest.raises(BadValue, match="no setting 'name'"):
        await registry.tenants.set("acme", {"name": "x"}, by=BY)
    with pytest.raises(UnknownTenant):
        await registry.tenants.set("nobody", {"rpm": 1}, by=BY)


async def test_settings_out_of_range_are_refused(registry: Registry) -> None:
    for change in (
        {"weight": 0},
        {"weight": float("nan")},
        {"weight": True},
        {"kv_guarantee": 1.5},
        {"kv_limit": 0.0},
        {"rpm": 0},
        {"tpm": 1.5},
        {"max_concurrency": True},
        {"token_budget": 2**40},
        {"budget_period": "week"},
        {"limits": [1]},
    ):
        with pytest.raises(BadValue, match=next(iter(change))):
            await registry.tenants.set("acme", change, by=BY)


async def test_a_bad_row_stops_nobody_and_can_be_repaired(registry: Registry) -> None:
    bad = sa.update(tables.tenants).where(tables.tenants.c.name == "acme").values(weight=0, rpm=-1)
    async with registry._database.write() as connection:
        await connection.execute(bad)
    assert [tenant.name for tenant in await registry.tenants.list()] == ["acme", "globex"]
    assert (await registry.tenants.get("acme")).settings == TenantSettings(rpm=1)
    repaired = await registry.tenants.set("acme", {"weight": 2, "rpm": None}, by=BY)
    assert await registry.tenants.get("acme") == repaired
    assert repaired.settings == TenantSettings(weight=2)


async def test_bad_tenant_names_are_refused(registry: Registry) -> None:
    for name in ("", "Acme", "ac-me", "a" * 33, "_a", "a/b", "a b", "ä", "a\n"):
        with pytest.raises(BadName):
            await registry.tenants.add(Tenant(name), by=BY)


async def test_a_tenant_with_a_name_that_is_reserved_now_works_as_before(registry: Registry) -> None:
    with pytest.raises(BadName, match="used by the metrics"):
        await registry.tenants.add(Tenant("other"), by=BY)
    async with registry._database.write() as connection:  # as an earlier release has written it
        row = replace(Tenant("other"), created_at=utc_now()).as_dict()
        await connection.execute(sa.insert(tables.tenants).values(**row))
    assert (await registry.tenants.set("other", {"weight": 2}, by=BY)).settings.weight == 2
    issued = await registry.keys.issue("other", Role.INFERENCE, by=BY)
    version = await registry.versions.register("other", "support", "upload", by=BY)
    assert version.tenant == "other" and issued.key.tenant == "other"


async def test_a_tenant_name_is_given_once(registry: Registry) -> None:
    with pytest.raises(NameTaken):
        await registry.tenants.add(Tenant("acme"), by=BY)


async def test_removing_a_tenant_takes_its_keys(registry: Registry) -> None:
    issued = await registry.keys.issue("acme", Role.INFERENCE, by=BY)
    version = await registry.versions.register("acme", "support", "upload", by=BY)
    with pytest.raises(InUse, match="still has adapter 'support'"):
        await registry.tenants.remove("acme", by=BY)
    await registry.adapters.begin_removal(version.tenant, version.adapter, by=BY)
    await registry.tenants.remove("acme", by=BY)
    with pytest.raises(UnknownKey):
        await registry.keys.find(issued.secret)
    with pytest.raises(UnknownTenant):
        await registry.tenants.remove("acme", by=BY)


async def test_a_key_is_found_by_its_secret_which_is_not_kept(registry: Registry) -> None:
    issued = await registry.keys.issue(
        "acme", Role.INFERENCE, by=BY, models=["acme-support"], note="laptop of the support team"
    )
    assert issued.secret.startswith("lg-") and len(issued.secret) >= 46
    assert issued.secret not in repr(issued)
    assert await registry.keys.find(issued.secret) == issued.key
    assert issued.key.models == ("acme-support",)
    async with registry._database.read() as connection:
        for table in (tables.keys, tables.audit):
            rows = (await connection.execute(sa.select(table))).all()
            assert issued.secret not in str(rows) and issued.secret[12:] not in str(rows)


async def test_wrong_expired_and_revoked_keys_look_alike(registry: Registry) -> None:
    expired = await registry.keys.issue("acme", Role.INFERENCE, by=BY, expires_at=datetime.now(UTC))
    revoked = await registry.keys.issue("acme", Role.TENANT_ADMIN, by=BY)
    await registry.keys.revoke(revoked.key.id, by=BY)
    told = set()
    for secret in (expired.secret, revoked.secret, "lg-wrong", "", "\udcff", "x" * 100_000):
        with pytest.raises(UnknownKey) as caught:
            await registry.keys.find(secret)
        told.add(str(caught.value))
    assert len(told) == 1


async def test_a_rotated_key_overlaps_with_the_new_one(registry: Registry) -> None:
    until = datetime.now(UTC) + timedelta(days=9)
    old = await registry.keys.issue("acme", Role.INFERENCE, by=BY, expires_at=until, models=["acme-a"])
    new = await registry.keys.rotate(old.key.id, by=BY, overlap_s=3600)
    assert (new.key.role, new.key.tenant, new.key.models, new.key.expires_at) == (
        old.key.role,
        old.key.tenant,
        old.key.models,
        until,
    )
    assert (await registry.keys.find(old.secret)).revoked_at is not None
    await registry.keys.revoke(old.key.id, by=BY, in_s=9000)
    ends = (await registry.keys.get(old.key.id)).revoked_at
    assert ends is not None and ends < datetime.now(UTC) + timedelta(seconds=3601)  # never later than said
    await registry.keys.revoke(old.key.id, by=BY)
    with pytest.raises(UnknownKey):
        await registry.keys.find(old.secret)
    with pytest.raises(UnknownKey):
        await registry.keys.rotate(old.key.id, by=BY)
    assert (await registry.keys.find(new.secret)).id == new.key.id
    assert [key.id for key in await registry.keys.list("acme")] == [old.key.id, new.key.id]


async def test_fixed_keys_for_the_demo(registry: Registry) -> None:
    issued = await registry.keys.issue(None, Role.OPERATOR, by=BY, secret="demo-admin")
    assert (await registry.keys.find("demo-admin")).sha256 == hash_secret("demo-admin")
    assert issued.key.prefix == "demo-"
    with pytest.raises(NameTaken):
        await registry.keys.issue(None, Role.OPERATOR, by=BY, secret="demo-admin")
    with pytest.raises(BadValue, match="6 to 256"):
        await registry.keys.issue(None, Role.OPERATOR, by=BY, secret="short")


async def test_roles_and_tenants_must_fit(registry: Registry) -> None:
    with pytest.raises(BadValue, match="operator's key"):
        await registry.keys.issue("acme", Role.OPERATOR, by=BY)
    with pytest.raises(BadValue, match="operator's key"):
        await registry.keys.issue(None, Role.TENANT_ADMIN, by=BY)
    with pytest.raises(UnknownTenant):
        await registry.keys.issue("nobody", Role.INFERENCE, by=BY)


async def test_every_change_is_audited_and_moves_the_revision(registry: Registry) -> None:
    before = await registry.audit.revision()
    issued = await registry.keys.issue("acme", Role.INFERENCE, by=BY)
    await registry.tenants.set("acme", {"rpm": 3}, by=Actor("operator"))
    with pytest.raises(UnknownTenant):
        await registry.tenants.set("nobody", {"rpm": 3}, by=BY)
    assert await registry.audit.revision() > before
    entries = (await registry.audit.list(limit=2))[::-1]
    assert [(e.actor, e.key_id, e.action, e.subject) for e in entries] == [
        ("test", "k_test", "key.add", issued.key.id),
        ("operator", None, "tenant.set", "acme"),
    ]
    assert entries[1].details == {"rpm": 3}
    assert not await registry.audit.list(subject="nobody")


async def test_many_writers_at_once_all_succeed(registry: Registry) -> None:
    issued = await asyncio.gather(*(registry.keys.issue("acme", Role.INFERENCE, by=BY) for _ in range(40)))
    assert len({key.key.id for key in issued}) == 40
    assert len(await registry.keys.list("acme")) == 40


class TooMuch(Exception):
    """What the check below raises."""


def at_most_one(tenants: Sequence[Tenant]) -> None:
    if sum(tenant.settings.kv_guarantee for tenant in tenants) > 1:
        raise TooMuch


async def test_changes_that_fit_alone_do_not_all_pass_together(registry: Registry) -> None:
    """Five at once, of which two fit: the check sees each with those that came before it, on either database."""
    for number in range(3):
        await registry.tenants.add(Tenant(f"t{number}"), by=BY)
    names = [f"t{number}" for number in range(3)]
    changes = [registry.tenants.set(n, {"kv_guarantee": 0.4}, by=BY, check=at_most_one) for n in names]
    added = [
        registry.tenants.add(Tenant(f"new{n}", TenantSettings(kv_guarantee=0.4)), by=BY, check=at_most_one)
        for n in range(2)
    ]
    results = await asyncio.gather(*changes, *added, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Tenant"] * 2 + ["TooMuch"] * 3
    assert sum(tenant.settings.kv_guarantee for tenant in await registry.tenants.list()) == pytest.approx(0.8)
