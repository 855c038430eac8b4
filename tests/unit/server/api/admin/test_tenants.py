"""/admin/v1/tenants: what it refuses, with which code, and the shape of its answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.datastructures import Headers

from adapters.models import Key, Role
from adapters.registry import Registry, connect
from server.api import errors
from server.api.admin import tenants
from server.api.admin.permissions import Permissions
from server.request.context import Caller

OPERATOR = Caller(Key("k", None, Role.OPERATOR, "lg-", "0", None, None, None, datetime.now(UTC)), None)


@pytest.fixture
async def client(sqlite_url: str) -> AsyncIterator[httpx.AsyncClient]:
    engine = connect(sqlite_url)

    async def authenticate(headers: Headers, reads: bool = False) -> Caller:
        return OPERATOR

    services: Any = SimpleNamespace(registry=Registry(engine))
    authenticator: Any = SimpleNamespace(operator=authenticate)
    app = FastAPI()
    app.include_router(tenants.router(services, Permissions(authenticator)))
    errors.install(app, authenticate)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test/admin/v1"
    ) as client:
        yield client
    await engine.dispose()


async def test_a_tenant_is_shown_with_all_its_settings_on_one_level(client: httpx.AsyncClient) -> None:
    made = await client.post("/tenants", json={"name": "acme", "settings": {"rpm": 60, "kv_limit": 1}})
    assert made.status_code == 201
    assert list(made.json()) == [
        "name", "weight", "kv_guarantee", "kv_limit", "max_concurrency", "rpm", "tpm", "token_budget",
        "money_budget", "budget_period", "sampling_defaults", "limits", "records", "created_at",
    ]  # fmt: skip
    changed = await client.patch("/tenants/acme", json={"money_budget": 12.5})
    assert changed.json()["money_budget"] == "12.5"
    changed = await client.patch(
        "/tenants/acme", json={"rpm": None, "budget_period": "day", "money_budget": "250.00"}
    )
    assert changed.json()["money_budget"] == "250"
    assert (changed.json()["rpm"], changed.json()["budget_period"]) == (None, "day")
    assert (await client.get("/tenants")).json() == {"data": [changed.json()]}


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        ({"weight": 0}, "adapter_error", "weight is 0; set it to a number from 0.001 to 1000."),
        (
            {"money_budget": "a lot"},
            "adapter_error",
            "money_budget is 'a lot'; set it to an amount from 0.000001",
        ),
        ({"money_budget": 0}, "adapter_error", "money_budget is 0; set it to an amount from 0.000001"),
        ({"rpm": True}, "adapter_error", "rpm is True; set it to a whole number"),
        ({"kv_guarantee": 0.9, "kv_limit": 0.5}, "adapter_error", "kv_guarantee 0.9 is above kv_limit 0.5"),
        ({"colour": "red"}, "adapter_error", "A tenant has no setting 'colour'"),
        ({"created_at": None}, "adapter_error", "A tenant has no setting 'created_at'"),
        ({"limits": {"max_tokenz": 1}}, "adapter_error", "There is no limit 'max_tokenz'"),
        ({"sampling_defaults": {"temperature": -1}}, "invalid_value", "temperature"),
        ({"kv_guarantee": 0.6}, "invalid_policy", "kv_guarantee adds up to 1.1, above 1: 0.6"),
    ],
)
async def test_bad_settings_answer_400_when_added_and_when_changed(
    client: httpx.AsyncClient, settings: dict[str, object], code: str, message: str
) -> None:
    await client.post("/tenants", json={"name": "globex", "settings": {"kv_guarantee": 0.5}})
    await client.post("/tenants", json={"name": "acme"})
    before = (await client.get("/tenants")).json()
    for refused in (
        await client.post("/tenants", json={"name": "new", "settings": settings}),
        await client.patch("/tenants/acme", json=settings),
    ):
        assert refused.status_code == 400, refused.text
        assert refused.json()["error"]["code"] == code and message in refused.json()["error"]["message"]
    assert (await client.get("/tenants")).json() == before
