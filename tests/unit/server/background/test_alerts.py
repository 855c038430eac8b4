"""What webhooks are told of budgets and of the engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from adapters.billing.prices import Price
from adapters.billing.webhooks import WebhookEvent
from adapters.errors import RegistryUnavailable
from adapters.models import Actor, Role, Tenant, Usage
from adapters.registry import Registry, connect
from adapters.registry.database import utc_now
from adapters.tenant_settings import BudgetPeriod, KeyLimits, TenantSettings
from server.background.alerts import BudgetAlerts, EngineAlerts
from server.engine.supervisor import State

BY = Actor("test")
E = WebhookEvent
URL = "https://example.com/hook"


@pytest.fixture
async def registry(sqlite_url: str) -> AsyncIterator[Registry]:
    engine = connect(sqlite_url)
    yield Registry(engine)
    await engine.dispose()


async def told(registry: Registry, hook: str) -> list[dict[str, Any]]:
    """The data of all messages, in the order of writing."""
    messages = sorted(await registry.webhooks.messages(hook), key=lambda message: message.created_at)
    return [{"type": message.event, **json.loads(message.payload)["data"]} for message in messages]


async def use(registry: Registry, tokens: int, key: str = "") -> None:
    await registry.usage.add([Usage("acme", "", 0, utc_now(), requests=1, generated_tokens=tokens, key=key)])


async def test_each_threshold_is_told_once_and_again_for_a_changed_budget(registry: Registry) -> None:
    daily = BudgetPeriod.DAY
    settings = TenantSettings(money_budget=Decimal(1), token_budget=10_000, budget_period=daily)
    await registry.tenants.add(Tenant("acme", settings), by=BY)
    limits = KeyLimits.parse({"money_budget": "0.5", "budget_period": "day"})
    key = (await registry.keys.issue("acme", Role.INFERENCE, by=BY, limits=limits)).key
    start = utc_now().replace(hour=0, minute=0, second=0, microsecond=0)
    await registry.prices.set("", "", Price(0, 0, 10**9), by=BY, valid_from=start, backdate=True)
    alerts = [BudgetAlerts(registry, (50, 100), "EUR") for _ in range(2)]  # of two servers

    await use(registry, 400, key.account)
    for alert in alerts:
        await alert.check()  # nobody wants to know
    hook = (await registry.webhooks.add(URL, [E.BUDGET], by=BY)).id
    for alert in (*alerts, *alerts):
        await alert.check()
    (first,) = await told(registry, hook)
    assert (first["key"], first["budget"], first["percent"]) == (key.account, "money_budget", 50)
    assert (first["used"], first["allowed"], first["currency"], first["period"]) == (
        "0.4",
        "0.5",
        "EUR",
        "day",
    )

    await use(registry, 600)
    for alert in (*alerts, *alerts):
        await alert.check()
    assert [(row["key"], row["budget"], row["percent"]) for row in (await told(registry, hook))[1:]] == [
        ("", "money_budget", 50),
        ("", "money_budget", 100),
    ]
    await registry.tenants.set("acme", {"money_budget": "2"}, by=BY)
    for alert in alerts:
        await alert.check()
    last = (await told(registry, hook))[3:]
    assert [(row["allowed"], row["percent"]) for row in last] == [("2", 50)]
    await registry.tenants.set("acme", {"token_budget": 1500, "money_budget": None}, by=BY)
    await alerts[0].check()
    last = (await told(registry, hook))[4:]
    assert [(row["budget"], row["used"], row["allowed"], row["currency"]) for row in last] == [
        ("token_budget", "1000", "1500", None)
    ]


@dataclass
class Engine:
    state: State = State.READY
    restarts: int = 0
    stalls: int = 0


async def test_a_dead_or_stalled_engine_and_its_return_are_told(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = (await registry.webhooks.add(URL, [E.ENGINE_FAILED, E.ENGINE_RESTORED], by=BY)).id
    engine = Engine()
    alerts = EngineAlerts(registry, engine)
    await alerts.look()
    engine.state, engine.restarts = State.RESTARTING, 1
    for _ in range(3):
        await alerts.look()
    engine.state = State.READY
    await alerts.look()
    engine.state, engine.restarts, engine.stalls = State.RESTARTING, 2, 1

    async def away(*_: Any) -> None:
        raise RegistryUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(registry.webhooks, "emit", away)
        with pytest.raises(RegistryUnavailable):
            await alerts.look()
        engine.state = State.READY
        with pytest.raises(RegistryUnavailable):
            await alerts.look()
    await alerts.look()
    await alerts.look()
    rows = await told(registry, hook)
    assert [(row["type"], row.get("reason"), row["restarts"]) for row in rows] == [
        ("engine.failed", "died", 1),
        ("engine.restored", None, 1),
        ("engine.failed", "stalled", 2),
        ("engine.restored", None, 2),
    ]
    assert {row["server"] for row in rows} == {registry.membership.own.id}
