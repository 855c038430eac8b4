"""Names, versions and weights; and that other tenants' names look like none."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from adapters.models import SYSTEM, AliasTarget, Key, Role, Tenant, VersionState
from adapters.registry import Registry, connect
from server.auth.authenticator import Authenticator
from server.config.settings import load
from server.errors import InvalidRequest, ModelNotFound, Unauthenticated
from server.request.context import Caller
from server.request.routing import Router, sticky_part

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
async def filled(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a registry with two tenants and three versions of an adapter for each."""
    path = tmp_path_factory.mktemp("routing") / "registry.db"
    shutil.copy(migrated_sqlite, path)
    engine = connect(f"sqlite:///{path}")
    registry = Registry(engine, reserved_names={"base"})
    for tenant in ("acme", "globex"):
        await registry.tenants.add(Tenant(tenant), by=SYSTEM)
        for _ in range(3):
            version = await registry.versions.register(tenant, "support", "test", by=SYSTEM)
            for state in (VersionState.FETCHED, VersionState.VERIFIED, VersionState.READY):
                version = await registry.versions.transition(version, state, by=SYSTEM)
        await registry.aliases.set(tenant, "support", (AliasTarget(1),), expected_generation=0, by=SYSTEM)
    await engine.dispose()
    return path


@pytest.fixture
async def registry(filled: Path, tmp_path: Path) -> AsyncIterator[Registry]:
    shutil.copy(filled, tmp_path / "registry.db")
    engine = connect(f"sqlite:///{tmp_path}/registry.db")
    yield Registry(engine, reserved_names={"base"})
    await engine.dispose()


@pytest.fixture
def router(registry: Registry) -> Router:
    return Router(registry, base_model_name="base")


def caller(tenant: str | None, models: tuple[str, ...] | None = None) -> Caller:
    role = Role.INFERENCE if tenant else Role.OPERATOR
    key = Key("k", tenant, role, "lg-", "0", models, None, None, NOW)
    return Caller(key, Tenant(tenant) if tenant else None)


async def test_alias_version_and_base(router: Router) -> None:
    acme = caller("acme")
    target = await router.resolve(acme, "acme-support")
    assert target.version is not None and target.version.number == 1
    assert target.version.engine_name.startswith("acme/support@1#")
    pinned = await router.resolve(acme, "acme-support@3")
    assert pinned.model == "acme-support@3" and pinned.version is not None and pinned.version.number == 3
    assert (await router.resolve(acme, "base")).version is None


@pytest.mark.parametrize(
    "name",
    [
        "globex-support",
        "globex-support@1",
        "acme-none",
        "acme-support@9",
        "acme",
        "support",
        "-",
        "a@b@1",
        "\0",
    ],
)
async def test_not_found_is_one_sentence(router: Router, name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        await router.resolve(caller("acme"), name)
    with pytest.raises(ModelNotFound) as other:
        await router.resolve(caller("acme"), "acme-zzz")
    assert str(caught.value).replace(repr(name), "X") == str(other.value).replace("'acme-zzz'", "X")


async def test_no_name_is_the_only_model_that_the_key_may_call(router: Router) -> None:
    only_adapter = await router.resolve(caller("acme", ("acme-support",)), None)
    assert only_adapter.model == "acme-support" and only_adapter.version is not None
    assert (await router.resolve(caller("acme", ("base",)), None)).model == "base"
    with pytest.raises(ModelNotFound, match="names no model"):
        await router.resolve(caller("acme", ("globex-support",)), None)


async def test_no_name_and_several_models_lists_the_callers_own(router: Router) -> None:
    with pytest.raises(InvalidRequest, match=r"may call 2: .* base, acme-support") as caught:
        await router.resolve(caller("acme"), None)
    assert caught.value.param == "model" and "globex" not in str(caught.value)


@pytest.mark.parametrize("name", [7, "", [], {"a": 1}])
async def test_a_name_must_be_text(router: Router, name: object) -> None:
    with pytest.raises(InvalidRequest):
        await router.resolve(caller("acme"), name)


async def test_a_keys_allow_list_also_covers_the_base(router: Router) -> None:
    only_base, only_adapter = caller("acme", ("base",)), caller("acme", ("acme-support",))
    assert (await router.resolve(only_base, "base")).model == "base"
    with pytest.raises(ModelNotFound):
        await router.resolve(only_base, "acme-support")
    assert (await router.resolve(only_adapter, "acme-support@2")).version
    with pytest.raises(ModelNotFound):
        await router.resolve(only_adapter, "base")
    assert [name for name, _ in await router.visible(only_base)] == []
    assert not router.sees_base(only_adapter) and router.sees_base(only_base)


async def test_visible_is_the_tenants_own(router: Router) -> None:
    assert [name for name, _ in await router.visible(caller("acme"))] == ["acme-support"]
    assert [n for n, _ in await router.visible(caller(None))] == ["acme-support", "globex-support"]


async def test_operators_reach_every_tenant(router: Router) -> None:
    target = await router.resolve(caller(None), "globex-support")
    assert target.version is not None and target.version.tenant == "globex"


async def test_weights_and_stickiness(registry: Registry, router: Router) -> None:
    await registry.aliases.set(
        "acme", "support", (AliasTarget(1, 0.75), AliasTarget(2, 0.25)), expected_generation=1, by=SYSTEM
    )
    acme = caller("acme")

    async def number(sticky: str = "") -> int:
        version = (await router.resolve(acme, "acme-support", sticky=sticky)).version
        assert version is not None
        return version.number

    drawn = Counter([await number() for _ in range(2000)])
    assert 0.69 < drawn[1] / 2000 < 0.81 and drawn[1] + drawn[2] == 2000
    users = {f"u{i}": await number(f"u{i}") for i in range(400)}
    assert 0.65 < list(users.values()).count(1) / 400 < 0.85
    assert {user: await number(user) for user in users} == users


@pytest.mark.parametrize(
    ("body", "headers", "part"),
    [
        ({}, {}, ""),
        ({"user": "u"}, {"x-session-id": "s"}, "s"),
        ({"user": "u", "safety_identifier": "i"}, {}, "u"),
        ({"safety_identifier": "i"}, {}, "i"),
        ({"metadata": {"user_id": "m"}}, {}, "m"),
        ({"user": 7, "metadata": "x"}, {}, ""),
    ],
)
def test_what_keeps_a_users_requests_together(body: dict, headers: dict, part: str) -> None:
    assert sticky_part(body, headers) == part


async def test_keys(registry: Registry) -> None:
    auth = Authenticator(registry, load({"demo": True}))
    issued = await registry.keys.issue("acme", Role.INFERENCE, by=SYSTEM)
    for headers in (
        {"authorization": f"Bearer {issued.secret}"},
        {"authorization": f"bearer   {issued.secret} "},
        {"x-api-key": issued.secret},
    ):
        assert (await auth.authenticate(headers)).tenant_name == "acme"
    for bad in (
        {},
        {"authorization": issued.secret},
        {"authorization": "Bearer "},
        {"authorization": "Bearer x" * 999},
    ):
        with pytest.raises(Unauthenticated):
            await auth.authenticate(bad)


async def test_a_revoked_key_ends_within_the_staleness(registry: Registry) -> None:
    """Revoked by another process; what this one does itself is seen at once."""
    elsewhere = Registry(registry.adapters._database.engine)
    clock = SimpleNamespace(now=0.0)
    auth = Authenticator(registry, load({"demo": True}))
    registry.availability._clock = lambda: clock.now
    issued = await registry.keys.issue("acme", Role.INFERENCE, by=SYSTEM)
    headers = {"authorization": f"Bearer {issued.secret}"}
    await auth.authenticate(headers)
    await elsewhere.keys.revoke(issued.key.id, by=SYSTEM)
    await auth.authenticate(headers)
    clock.now += 0.5
    with pytest.raises(Unauthenticated):
        await auth.authenticate(headers)
