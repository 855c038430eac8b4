"""/admin/v1/keys, /budgets and /audit for a tenant's admin: what it can do by itself, and what it cannot get."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from adapters.models import Actor, Tenant, Usage
from adapters.registry.database import utc_now
from tests.unit.server.app.composed import Composed, compose

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
async def composed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Composed]:
    folder: Path = tmp_path_factory.mktemp("keys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        async with compose(folder) as composed:
            yield composed


async def admin_of(composed: Composed, tenant: str, **more: Any) -> str:
    """A new tenant's admin key."""
    await composed.make("POST", "/admin/v1/tenants", json={"name": tenant})
    body = {"tenant": tenant, "role": "tenant_admin", **more}
    return str((await composed.make("POST", "/admin/v1/keys", json=body))["secret"])


async def test_a_tenants_admin_makes_limits_and_revokes_keys_of_colleagues(composed: Composed) -> None:
    admin = await admin_of(composed, "initech")
    made = await composed.ask(
        "POST", "/admin/v1/keys", admin, json={"limits": {"rpm": 5, "money_budget": "2.50"}, "note": "Ann"}
    )
    assert made.status_code == 201, made.text
    key = made.json()
    assert (key["tenant"], key["role"], key["limits"]["money_budget"]) == ("initech", "inference", "2.5")
    changed = await composed.ask(
        "PATCH", f"/admin/v1/keys/{key['id']}", admin, json={"rpm": None, "tpm": 900}
    )
    assert (changed.json()["limits"]["rpm"], changed.json()["limits"]["tpm"]) == (None, 900)
    bad = await composed.ask("PATCH", f"/admin/v1/keys/{key['id']}", admin, json={"colour": "red"})
    assert (
        bad.status_code == 400 and "A key has no limit 'colour'; use one of max_concurrency, rpm" in bad.text
    )
    chat = {"model": "loragate-demo", "messages": [{"role": "user", "content": "hi"}]}
    answer = await composed.ask("POST", "/v1/chat/completions", key["secret"], json=chat)
    assert answer.status_code == 200 and answer.headers["x-ratelimit-limit-tokens"] == "900"
    listed = (await composed.ask("GET", "/admin/v1/keys", admin)).json()["data"]
    assert {row["tenant"] for row in listed} == {"initech"} and len(listed) == 2
    rotated = (await composed.ask("POST", f"/admin/v1/keys/{key['id']}/rotate", admin, json={})).json()
    assert (rotated["account"], rotated["limits"]["tpm"]) == (key["id"], 900)
    assert (await composed.ask("DELETE", f"/admin/v1/keys/{rotated['id']}", admin)).status_code == 200


@pytest.mark.parametrize(
    ("own", "asked", "message"),
    [
        ({}, {"role": "operator"}, "the role inference or tenant_admin"),
        ({"models": ["hooli-a"]}, {}, "may call hooli-a"),
        ({"models": ["hooli-a"]}, {"models": ["hooli-a", "hooli-b"]}, "may call hooli-a"),
        ({"expires_at": "2100-01-01T00:00:00Z"}, {}, "expires at 2100-01-01"),
        ({"expires_at": "2100-01-01T00:00:00Z"}, {"expires_at": "2100-01-02T00:00:00Z"}, "expires at"),
    ],
)
async def test_nobody_gets_a_key_that_may_more_than_ones_own(
    composed: Composed, own: dict[str, Any], asked: dict[str, Any], message: str
) -> None:
    tenant = f"hooli{next(_numbers)}"
    admin = await admin_of(composed, tenant, **own)
    refused = await composed.ask("POST", "/admin/v1/keys", admin, json=asked)
    assert refused.status_code == 403 and message in refused.json()["error"]["message"]
    if own:
        more = await composed.make("POST", "/admin/v1/keys", json={"tenant": tenant})
        refused = await composed.ask("POST", f"/admin/v1/keys/{more['id']}/rotate", admin, json={})
        assert refused.status_code == 403
        assert (await composed.ask("DELETE", f"/admin/v1/keys/{more['id']}", admin)).status_code == 200


async def test_a_tenants_admin_sees_its_own_budgets_cost_and_limits(composed: Composed) -> None:
    admin = await admin_of(composed, "umbrella")
    body = {"prompt": "0.50", "generated": "1.5", "valid_from": "2026-01-01T00:00:00Z", "backdate": True}
    await composed.make("POST", "/admin/v1/prices", json=body)
    await composed.make(
        "PATCH", "/admin/v1/tenants/umbrella", json={"money_budget": 3, "token_budget": 3_000_000}
    )
    used = Usage("umbrella", "", 0, utc_now(), requests=1, prompt_tokens=1_000_000, generated_tokens=1)
    await composed.server.registry.usage.add([used, Usage("acme", "", 0, utc_now(), generated_tokens=9)])
    budgets = (await composed.ask("GET", "/admin/v1/budgets", admin)).json()["data"]
    assert [
        (row["budget"], row["allowed"], row["used"], row["percent"], row["currency"]) for row in budgets
    ] == [
        ("token_budget", "3000000", "1000001", 33, None),
        ("money_budget", "3", "0.5000015", 16, "USD"),
    ]
    (row,) = (await composed.ask("GET", "/admin/v1/usage", admin)).json()["data"]
    assert (row["cost"], row["currency"]) == ("0.5000015", "USD")
    settings = (await composed.ask("GET", "/admin/v1/tenants/umbrella", admin)).json()
    assert settings["money_budget"] == "3"
    prices = (await composed.ask("GET", "/admin/v1/prices", admin)).json()["data"]
    assert [(price["prompt"], price["cached"], price["generated"]) for price in prices] == [
        ("0.5", "0.5", "1.5")
    ]


async def test_a_tenants_admin_sees_its_own_changes_only(composed: Composed) -> None:
    admin = await admin_of(composed, "stark_x")
    await admin_of(composed, "starkyx")  # a "_" must not match any character
    made = (await composed.ask("POST", "/admin/v1/keys", admin, json={})).json()
    entries = (await composed.ask("GET", "/admin/v1/audit", admin)).json()["data"]
    assert [(entry["action"], entry["actor"]) for entry in entries] == [
        ("key.add", "stark_x"),
        ("key.add", "operator"),
        ("tenant.add", "operator"),
    ]
    assert entries[0]["subject"] == made["id"] and entries[0]["key_id"]
    assert [entry["key_id"] for entry in entries[1:]] == [None, None], "not with which operator's key"
    everything = (await composed.make("GET", "/admin/v1/audit?limit=1000"))["data"]
    assert len(everything) > len(entries)


async def test_an_expiring_key_makes_keys_that_expire_before_it(composed: Composed) -> None:
    admin = await admin_of(composed, "wayne", expires_at=(utc_now() + timedelta(hours=1)).isoformat())
    soon = (utc_now() + timedelta(minutes=30)).isoformat()
    assert (await composed.ask("POST", "/admin/v1/keys", admin, json={"expires_at": soon})).status_code == 201


async def test_a_tenants_admin_gives_no_key_more_than_its_own_has(composed: Composed) -> None:
    soon = (utc_now() + timedelta(hours=1)).isoformat()
    admin = await admin_of(composed, "oscorp", models=["oscorp-a"], expires_at=soon)
    made = await composed.ask(
        "POST", "/admin/v1/keys", admin, json={"models": ["oscorp-a"], "expires_at": soon}
    )
    path = f"/admin/v1/keys/{made.json()['id']}"
    for changes in ({"models": None}, {"models": ["oscorp-b"]}, {"expires_at": None}):
        refused = await composed.ask("PATCH", path, admin, json=changes)
        assert refused.status_code == 403, refused.text
    naive = await composed.ask("PATCH", path, admin, json={"expires_at": "2026-01-01T00:00:00"})
    assert naive.status_code == 400 and "needs a time zone" in naive.text
    fewer = await composed.ask("PATCH", path, admin, json={"models": [], "note": "Bo", "rpm": 3})
    assert fewer.status_code == 200, fewer.text
    assert (fewer.json()["models"], fewer.json()["note"], fewer.json()["limits"]["rpm"]) == ([], "Bo", 3)


async def test_a_search_does_not_tell_a_tenant_who_the_operator_is(composed: Composed) -> None:
    registry = composed.server.registry
    await registry.tenants.add(Tenant("daily"), by=Actor("shell:root"))
    admin = await admin_of(composed, "bugle")
    await registry.tenants.set("bugle", {"rpm": 5}, by=Actor("shell:root"))

    async def found(query: str) -> list[str]:
        entries = (await composed.ask("GET", f"/admin/v1/audit?{query}", admin)).json()["data"]
        return [entry["action"] for entry in entries]

    assert await found("actor=shell:root") == await found("search=root") == []
    assert await found("actor=operator") == ["tenant.set", "key.add", "tenant.add"]
    assert await found("search=operator&action=tenant.") == ["tenant.set", "tenant.add"]
    assert await found("subject=daily") == []
