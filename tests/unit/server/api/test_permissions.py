"""Who may call which route: every route of the application × every role × the own and a foreign tenant."""

from __future__ import annotations

import enum
import io
import itertools
import os
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

import demo
from tests.unit.server.app.composed import OPERATOR_KEY, Composed, compose

SOURCE = str(next(iter(demo.ADAPTERS.values())).path)
ADAPTER = "/admin/v1/adapters/{tenant}/{name}"
Route = tuple[str, str]
Tenants = tuple[tuple[str, dict[str, str]], tuple[str, dict[str, str]]]


class Access(enum.Enum):
    """Whom a managing route lets in."""

    OPERATOR = enum.auto()
    MANAGER = enum.auto()
    """Operators and every tenant's admin; what the answer shows depends on the key."""
    TENANT = enum.auto()
    """Operators, and the admin of the tenant that the request names."""
    TENANT_ALONE = enum.auto()
    """The admin of the tenant that the request names, and no operator."""


@dataclass(frozen=True)
class Rule:
    """Who is let in, what the answer then is, and a request that deserves it."""

    access: Access
    status: int = 200
    request: dict[str, Any] = field(default_factory=dict)


def archive() -> bytes:
    """A tar of an adapter that fits the demo's base model."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(SOURCE, arcname=".")
    return packed.getvalue()


OPERATOR, MANAGER, TENANT = Access.OPERATOR, Access.MANAGER, Access.TENANT
NAMED = {"params": {"tenant": "{tenant}"}}
OCTETS = {"content-type": "application/octet-stream"}
ARCHIVE = archive()

RULES: dict[Route, Rule] = {
    ("GET", "/metrics"): Rule(OPERATOR),
    ("GET", "/admin/v1/tenants"): Rule(OPERATOR),
    ("POST", "/admin/v1/tenants"): Rule(OPERATOR, 201, {"json": {"name": "{new}"}}),
    ("GET", "/admin/v1/tenants/{name}"): Rule(TENANT),
    ("PATCH", "/admin/v1/tenants/{name}"): Rule(OPERATOR, 200, {"json": {"rpm": 9}}),
    ("DELETE", "/admin/v1/tenants/{name}"): Rule(OPERATOR, 204),
    ("PUT", "/admin/v1/tenants/{name}/records"): Rule(TENANT, 200, {"json": {"share": 0.5}}),
    ("DELETE", "/admin/v1/tenants/{name}/records"): Rule(TENANT),
    ("GET", "/admin/v1/keys"): Rule(TENANT, 200, NAMED),
    ("POST", "/admin/v1/keys"): Rule(TENANT, 201, {"json": {"tenant": "{tenant}"}}),
    ("GET", "/admin/v1/sessions"): Rule(MANAGER),
    ("DELETE", "/admin/v1/sessions"): Rule(MANAGER, 200, {"params": {"account": "u_none"}}),
    ("PATCH", "/admin/v1/keys/{key_id}"): Rule(TENANT, 200, {"json": {"rpm": 9}}),
    ("DELETE", "/admin/v1/keys/{key_id}"): Rule(TENANT),
    ("POST", "/admin/v1/keys/{key_id}/rotate"): Rule(TENANT, 201, {"json": {}}),
    ("GET", "/admin/v1/audit"): Rule(MANAGER),
    ("GET", "/admin/v1/budgets"): Rule(TENANT, 200, NAMED),
    ("POST", "/admin/v1/reconcile"): Rule(OPERATOR),
    ("PUT", ADAPTER + "/versions/{number}/pin"): Rule(OPERATOR),
    ("DELETE", ADAPTER + "/versions/{number}/pin"): Rule(OPERATOR),
    ("GET", "/admin/v1/adapters"): Rule(MANAGER),
    ("GET", "/admin/v1/whoami"): Rule(MANAGER),
    ("GET", "/admin/v1/live"): Rule(MANAGER),
    ("GET", "/admin/v1/state"): Rule(MANAGER),
    ("GET", "/admin/v1/servers"): Rule(OPERATOR),
    ("GET", "/admin/v1/options"): Rule(MANAGER),
    ("GET", "/admin/v1/usage"): Rule(TENANT, 200, NAMED),
    ("GET", "/admin/v1/usage/keys"): Rule(TENANT, 200, NAMED),
    ("GET", "/admin/v1/prices"): Rule(TENANT, 200, NAMED),
    ("POST", "/admin/v1/prices"): Rule(OPERATOR, 201, {"json": {"prompt": "0.5", "generated": 1.5}}),
    ("DELETE", "/admin/v1/prices"): Rule(
        OPERATOR, 204, {"params": {"tenant": "{tenant}", "valid_from": "{price}"}}
    ),
    ("GET", "/admin/v1/webhooks"): Rule(OPERATOR),
    ("POST", "/admin/v1/webhooks"): Rule(
        OPERATOR, 201, {"json": {"url": "https://example.com/x", "events": ["engine.failed"]}}
    ),
    ("DELETE", "/admin/v1/webhooks/{webhook_id}"): Rule(OPERATOR, 204),
    ("POST", "/admin/v1/webhooks/{webhook_id}/test"): Rule(OPERATOR, 202),
    ("GET", "/admin/v1/webhooks/{webhook_id}/messages"): Rule(OPERATOR),
    ("GET", "/admin/v1/errors"): Rule(TENANT, 200, NAMED),
    ("GET", "/admin/v1/history"): Rule(TENANT, 200, NAMED),
    ("GET", "/admin/v1/requests/{request_id}"): Rule(TENANT),
    ("GET", "/admin/v1/feedback"): Rule(TENANT, 200, NAMED),
    ("GET", ADAPTER): Rule(TENANT),
    ("DELETE", ADAPTER): Rule(TENANT),
    ("POST", ADAPTER + "/blend"): Rule(TENANT, 201, {"json": {"of": [{"adapter": "{name}", "version": 1}]}}),
    ("POST", ADAPTER + "/versions"): Rule(TENANT, 201, {"content": ARCHIVE, "headers": OCTETS}),
    ("DELETE", ADAPTER + "/versions/{number}"): Rule(TENANT),
    ("POST", ADAPTER + "/promote"): Rule(TENANT, 200, {"json": {"version": 1}}),
    ("POST", ADAPTER + "/split"): Rule(TENANT, 200, {"json": {"weights": {"1": 1, "2": 1}}}),
    ("POST", ADAPTER + "/rollback"): Rule(TENANT, 200, {"json": {}}),
    ("POST", ADAPTER + "/versions/{number}/evaluations"): Rule(
        TENANT, 202, {"content": b"{}", "headers": OCTETS}
    ),
    ("GET", ADAPTER + "/evaluations"): Rule(TENANT),
    ("GET", ADAPTER + "/evaluations/{evaluation}"): Rule(TENANT),
    ("DELETE", ADAPTER + "/evaluations/{evaluation}"): Rule(TENANT),
    ("PUT", ADAPTER + "/condition"): Rule(TENANT, 200, {"json": {"if": "loss < 1"}}),
    ("DELETE", ADAPTER + "/condition"): Rule(TENANT),
    ("PUT", ADAPTER + "/shadow"): Rule(TENANT, 200, {"json": {"version": 1, "share": 0.5}}),
    ("GET", ADAPTER + "/shadow"): Rule(TENANT),
    ("DELETE", ADAPTER + "/shadow"): Rule(TENANT),
    ("PUT", ADAPTER + "/shadow/texts"): Rule(Access.TENANT_ALONE),
    ("GET", ADAPTER + "/shadow/texts"): Rule(TENANT),
    ("DELETE", ADAPTER + "/shadow/texts"): Rule(TENANT),
    ("POST", ADAPTER + "/uploads"): Rule(TENANT, 201),
    ("GET", ADAPTER + "/uploads/{upload_id}"): Rule(TENANT),
    ("PATCH", ADAPTER + "/uploads/{upload_id}"): Rule(
        TENANT, 200, {"content": b"piece", "headers": {"upload-offset": "0", **OCTETS}}
    ),
    ("DELETE", ADAPTER + "/uploads/{upload_id}"): Rule(TENANT, 204),
    ("POST", "/v1/load_lora_adapter"): Rule(
        TENANT, 409, {"json": {"lora_name": "{tenant}-{name}", "lora_path": "hf:x/y"}}
    ),
    ("POST", "/v1/unload_lora_adapter"): Rule(TENANT, 200, {"json": {"lora_name": "{tenant}-{name}"}}),
}
#: Routes for whoever has any valid key.
KEYED: set[Route] = {
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/feedback"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/v1/chat/completions/batch"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name:path}"),
    ("GET", "/v1/presets"),
}
#: Routes that need no key.
OPEN: set[Route] = {
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/version"),
    ("GET", "/openapi.json"),
    ("GET", "/console"),
    ("GET", "/console/session"),
    ("GET", "/console/"),
    ("GET", "/console/{name:path}"),
}
#: Routes for fronts, which know `--replica-token`, and for other servers; nobody else may know that they exist.
FRONTS: set[Route] = {
    ("GET", "/internal/replica"),
    ("GET", "/internal/history"),
    ("GET", "/internal/request"),
}


@pytest.fixture(scope="module")
async def composed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Composed]:
    folder: Path = tmp_path_factory.mktemp("permissions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)  # no machine is switched off here
        async with compose(folder, protect_metrics=True, records=str(folder / "records")) as composed:
            yield composed


_numbers = itertools.count(1)


async def a_tenant(composed: Composed) -> tuple[str, dict[str, str]]:
    """A new tenant, and its keys by role."""
    tenant = f"t{next(_numbers)}"
    await composed.make("POST", "/admin/v1/tenants", json={"name": tenant})
    keys = {}
    for role in ("inference", "tenant_admin"):
        issued = await composed.make("POST", "/admin/v1/keys", json={"tenant": tenant, "role": role})
        keys[role] = issued["secret"]
    return tenant, keys


@pytest.fixture(scope="module")
async def tenants(composed: Composed) -> Tenants:
    """Two tenants that stay as they are, but for what is theirs."""
    return await a_tenant(composed), await a_tenant(composed)


def versions_for(path: str) -> int:
    """How many versions an adapter needs for this route."""
    if "/uploads" in path or path.endswith("/versions"):
        return 0
    return 2 if "{number}" in path or path.endswith(("/split", "/rollback")) else 1


def can_be_done_once(route: Route) -> bool:
    """Whether a second request to this route needs new things; others are answered as the first was."""
    once = ("/rollback", "/rotate", "_lora_adapter", "/tenants", "/uploads/{upload_id}", "/blend")
    return route[0] == "DELETE" or (route[0] != "GET" and route[1].endswith(once))


async def things_of(composed: Composed, tenant: str, route: Route, rule: Rule) -> dict[str, str]:
    """New things of the tenant, as many as the route names: the values for its placeholders."""
    asked = route[1] + repr(rule.request)
    things = {"tenant": tenant, "number": "1", "new": f"t{next(_numbers)}", "name": tenant}
    if "{name}" in asked and "/tenants/" not in asked:
        things["name"] = f"a{next(_numbers)}"
        adapter = f"/admin/v1/adapters/{tenant}/{things['name']}"
        for _ in range(versions_for(route[1])):
            await composed.make("POST", f"{adapter}/versions", json={"source": SOURCE})
        if "{evaluation}" in asked:
            path = f"{adapter}/versions/1/evaluations"
            begun = await composed.make("POST", path, content=b"{}", headers=OCTETS)
            things["evaluation"] = begun["id"]
        if "{upload_id}" in asked:
            things["upload_id"] = (await composed.make("POST", f"{adapter}/uploads"))["id"]
    if "{request_id}" in asked:
        things["request_id"] = f"r{next(_numbers)}"
        issued = await composed.make("POST", "/admin/v1/keys", json={"tenant": tenant})
        body = {"model": "loragate-demo", "messages": [{"role": "user", "content": "Hello!"}]}
        headers = {"x-request-id": things["request_id"]}
        await composed.ask("POST", "/v1/chat/completions", issued["secret"], json=body, headers=headers)
    if "{key_id}" in asked:
        issued = await composed.make("POST", "/admin/v1/keys", json={"tenant": tenant})
        things["key_id"] = issued["id"]
    if "{webhook_id}" in asked:
        webhook = {"url": "https://example.invalid/", "events": ["budget.threshold_reached"]}
        things["webhook_id"] = (await composed.make("POST", "/admin/v1/webhooks", json=webhook))["id"]
    if "{price}" in asked:
        body = {"tenant": tenant, "prompt": 1, "generated": 1}
        things["price"] = (await composed.make("POST", "/admin/v1/prices", json=body))["valid_from"]
    return things


def filled(template: Any, things: dict[str, str]) -> Any:
    """The template with its placeholders replaced."""
    if isinstance(template, dict):
        return {name: filled(value, things) for name, value in template.items()}
    if isinstance(template, list):
        return [filled(value, things) for value in template]
    return template.format(**things) if isinstance(template, str) else template


async def ask(
    composed: Composed, route: Route, rule: Rule, key: str | None, things: dict[str, str]
) -> httpx.Response:
    return await composed.ask(route[0], filled(route[1], things), key, **filled(rule.request, things))


def expected(rule: Rule) -> dict[tuple[str, str], int]:
    """(role, whose things) -> status."""
    own_admin = 403 if rule.access is OPERATOR else rule.status
    foreign_admin = 404 if rule.access in (TENANT, Access.TENANT_ALONE) else own_admin
    operator = 403 if rule.access is Access.TENANT_ALONE else rule.status
    outcomes = {("operator", whose): operator for whose in ("own", "foreign")}
    outcomes |= {("tenant_admin", "own"): own_admin, ("tenant_admin", "foreign"): foreign_admin}
    for role, refusal in (("no key", 401), ("wrong key", 401), ("inference", 403)):
        outcomes |= {(role, whose): refusal for whose in ("own", "foreign")}
    return outcomes


def test_every_route_has_a_rule(composed: Composed) -> None:
    routes = {
        (method, route.path)  # type: ignore[attr-defined]
        for route in composed.app.routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    assert routes == RULES.keys() | KEYED | OPEN | FRONTS


@pytest.mark.parametrize("route", RULES, ids=" ".join)
async def test_a_managing_route_lets_in_whom_its_rule_says(
    composed: Composed, tenants: Tenants, route: Route
) -> None:
    rule, changes = RULES[route], route[0] != "GET"
    if changes and (
        "/tenants/" in route[1] or "/uploads" in route[1]
    ):  # open uploads of a tenant are limited
        tenants = await a_tenant(composed), await a_tenant(composed)
    (own, keys), (foreign, _) = tenants
    secrets = {"no key": None, "wrong key": "lg-wrong", "operator": OPERATOR_KEY, **keys}
    names = {"own": own, "foreign": foreign}
    there = {whose: await things_of(composed, name, route, rule) for whose, name in names.items()}
    wanted, found = expected(rule), {}
    # Refused callers come first and share the things, which a refusal leaves as they are.
    for role, whose in sorted(wanted, key=lambda case: wanted[case] == rule.status):
        let_in = rule.status in (found.get(("operator", whose)), found.get(("tenant_admin", whose)))
        if let_in and can_be_done_once(route):
            there[whose] = await things_of(composed, names[whose], route, rule)
        answer = await ask(composed, route, rule, secrets[role], there[whose])
        found[role, whose] = answer.status_code
    assert found == wanted


@pytest.mark.parametrize(
    "route", [route for route, rule in RULES.items() if rule.access is TENANT], ids=" ".join
)
async def test_a_foreign_tenant_looks_like_one_that_does_not_exist(
    composed: Composed, tenants: Tenants, route: Route
) -> None:
    (_, keys), (foreign, _) = tenants
    things = {
        "tenant": foreign,
        "name": "a",
        "number": "1",
        "upload_id": "0" * 32,
        "request_id": "r",
        "evaluation": "0" * 32,
    }
    their_key = (await composed.make("POST", "/admin/v1/keys", json={"tenant": foreign}))["id"]
    texts = []
    for name, key_id in ((foreign, their_key), ("nobody", "k_" + "0" * 16)):
        named = {"tenant": name, "key_id": key_id} | ({"name": name} if "/tenants/" in route[1] else {})
        answer = await ask(composed, route, RULES[route], keys["tenant_admin"], things | named)
        texts.append((answer.status_code, answer.text.replace(name, "NAME").replace(key_id, "ID")))
    assert texts[0] == texts[1] and texts[0][0] == 404


@pytest.mark.parametrize("route", sorted(KEYED), ids=" ".join)
async def test_a_calling_route_needs_a_key(composed: Composed, tenants: Tenants, route: Route) -> None:
    method, path = route[0], route[1].replace("{name:path}", "loragate-demo")
    for key in (None, "lg-wrong"):
        answer = await composed.ask(method, path, key)
        assert answer.status_code == 401 and answer.headers["www-authenticate"]
    (_, keys), _ = tenants
    assert (await composed.ask(method, path, keys["inference"])).status_code in (200, 400)


@pytest.mark.parametrize("route", sorted(OPEN), ids=" ".join)
async def test_an_open_route_needs_none(composed: Composed, route: Route) -> None:
    answer = await composed.ask(route[0], route[1].replace("{name:path}", "index.html"), None)
    assert answer.status_code in (200, 307)


@pytest.mark.parametrize("key", [None, "", "lg-wrong", OPERATOR_KEY])
async def test_a_fronts_route_is_there_for_nobody_else(composed: Composed, key: str | None) -> None:
    answer = await composed.ask("GET", "/internal/replica", key)
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "route_not_found"
