"""Bearer key → caller: which keys are let in, for how long, and what a refusal does not tell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from adapters.models import Actor, Role, Tenant
from adapters.registry import Registry, connect, migrate
from adapters.tenant_settings import TenantSettings
from server.auth import authenticator
from server.auth.authenticator import Authenticator
from server.config.settings import load
from server.errors import Forbidden, Unauthenticated

BY = Actor("test", "k_test")
NO_KEY = (
    r"^No API key was sent: use `Authorization: Bearer <key>`; "
    r"an operator makes keys with `loragate key add`\.$"
)


class Clock:
    """The time that decides about keys."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(authenticator, "utc_now", clock)
    return clock


@pytest.fixture(scope="module")
async def registry(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Registry]:
    url = f"sqlite:///{tmp_path_factory.mktemp('auth')}/registry.db"
    await migrate(url)
    engine = connect(url)
    registry = Registry(engine, reserved_names={"base"})
    limits = {"max_tokens": 7}
    await registry.tenants.add(
        Tenant("acme", TenantSettings(sampling_defaults={"top_p": 0.5}, limits=limits)), by=BY
    )
    yield registry
    await engine.dispose()


@pytest.fixture
def auth(registry: Registry) -> Authenticator:
    return Authenticator(registry, load({"demo": True}))


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def test_a_key_that_expires_while_it_is_cached_is_refused_at_once(
    registry: Registry, auth: Authenticator, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    expires_at = clock.now + timedelta(hours=1)
    secret = (await registry.keys.issue("acme", Role.INFERENCE, by=BY, expires_at=expires_at)).secret
    await auth.authenticate(bearer(secret))

    async def no_look_up(secret: str) -> None:
        raise AssertionError("the key is cached")

    monkeypatch.setattr(registry.keys, "find", no_look_up)
    clock.now = expires_at - timedelta(microseconds=1)
    await auth.authenticate(bearer(secret))
    clock.now = expires_at
    with pytest.raises(Unauthenticated):
        await auth.authenticate(bearer(secret))


async def test_a_key_that_this_process_revokes_is_refused_at_once(
    registry: Registry, auth: Authenticator
) -> None:
    issued = await registry.keys.issue("acme", Role.INFERENCE, by=BY)
    await auth.authenticate(bearer(issued.secret))
    await registry.keys.revoke(issued.key.id, by=BY)
    with pytest.raises(Unauthenticated):
        await auth.authenticate(bearer(issued.secret))


async def test_settings_that_this_process_changes_hold_for_a_cached_key_at_once(
    registry: Registry, auth: Authenticator
) -> None:
    await registry.tenants.add(Tenant("initech", TenantSettings(rpm=1)), by=BY)
    secret = (await registry.keys.issue("initech", Role.INFERENCE, by=BY)).secret
    assert (await auth.authenticate(bearer(secret))).tenant.settings.rpm == 1
    await registry.tenants.set("initech", {"rpm": 2}, by=BY)
    assert (await auth.authenticate(bearer(secret))).tenant.settings.rpm == 2


async def test_a_rotated_key_ends_with_its_overlap(
    registry: Registry, auth: Authenticator, clock: Clock
) -> None:
    old = await registry.keys.issue("acme", Role.INFERENCE, by=BY)
    new = await registry.keys.rotate(old.key.id, by=BY, overlap_s=60)
    assert (await auth.authenticate(bearer(old.secret))).key.id == old.key.id
    clock.now += timedelta(seconds=61)
    with pytest.raises(Unauthenticated):
        await auth.authenticate(bearer(old.secret))
    assert (await auth.authenticate(bearer(new.secret))).key.id == new.key.id


async def test_the_caller_carries_the_tenants_own_settings(registry: Registry, auth: Authenticator) -> None:
    issued = await registry.keys.issue("acme", Role.TENANT_ADMIN, by=BY)
    caller = await auth.authenticate(bearer(issued.secret))
    assert (caller.key, caller.tenant) == (issued.key, await registry.tenants.get("acme"))
    assert caller.defaults.origin == "tenant" and caller.defaults.defaults == {"top_p": 0.5}
    assert caller.limits.max_tokens == 7


async def test_only_an_operator_passes_for_one(registry: Registry, auth: Authenticator) -> None:
    operator = await registry.keys.issue(None, Role.OPERATOR, by=BY)
    caller = await auth.operator(bearer(operator.secret))
    assert caller.key.id == operator.key.id and caller.tenant is None and caller.tenant_name == ""
    for role in (Role.INFERENCE, Role.TENANT_ADMIN):
        secret = (await registry.keys.issue("acme", role, by=BY)).secret
        with pytest.raises(Forbidden, match=r"^This needs an operator's key\.$"):
            await auth.operator(bearer(secret))
    with pytest.raises(Unauthenticated):
        await auth.operator({})


async def test_where_a_key_may_stand(registry: Registry, auth: Authenticator) -> None:
    secret = (await registry.keys.issue("acme", Role.INFERENCE, by=BY)).secret
    for headers in (
        bearer(secret),
        {"authorization": f"bearer  {secret} "},
        {"x-api-key": f" {secret} "},
        {"authorization": "Basic abc", "x-api-key": secret},
        {"authorization": "Bearer ", "x-api-key": secret},
    ):
        assert (await auth.authenticate(headers)).tenant_name == "acme", headers
    for headers in ({}, {"authorization": "Bearer"}, {"authorization": secret}, {"x-api-key": " "}):
        with pytest.raises(Unauthenticated, match=NO_KEY):
            await auth.authenticate(headers)


async def test_an_unknown_key_costs_a_look_up_and_a_huge_one_none(
    registry: Registry, auth: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    find = registry.keys.find

    async def counted(secret: str) -> object:
        looked_up.append(secret)
        return await find(secret)

    monkeypatch.setattr(registry.keys, "find", counted)
    for secret in ("x", "x", "y" * 512, "z" * 513):
        with pytest.raises(Unauthenticated) as refused:
            await auth.authenticate(bearer(secret))
        assert str(refused.value) == str(Unauthenticated())
    assert looked_up == ["x", "x", "y" * 512]
