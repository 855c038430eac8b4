"""Messages to webhooks, on SQLite and PostgreSQL: written once, taken once, repeated, given up, forgotten."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from adapters.billing.errors import UnknownWebhook
from adapters.billing.webhooks import BACKOFF, WebhookEvent
from adapters.errors import BadValue, UnknownTenant
from adapters.models import Actor, AliasTarget
from adapters.registry import Registry
from adapters.registry.billing.webhooks import CLAIM, BudgetAlert
from adapters.registry.database import utc_now
from adapters.registry.schema import billing_tables
from tests.unit.adapters.lifecycle.support import another
from tests.unit.adapters.registry.test_adapters import make_ready

BY = Actor("test", "k_test")
URL = "https://example.com/hook"
E = WebhookEvent
ALERT = BudgetAlert("acme", "money_budget", datetime(2026, 3, 1, tzinfo=UTC), "1", 80, "acme")


async def test_only_who_wants_an_event_is_told_and_each_threshold_once(registry: Registry) -> None:
    all_budgets = await registry.webhooks.add(URL, [E.BUDGET, E.BUDGET, E.ENGINE_FAILED], by=BY)
    acmes = await registry.webhooks.add(URL, [E.BUDGET], by=BY, tenant="acme")
    globexs = await registry.webhooks.add(URL, [E.BUDGET], by=BY, tenant="globex")
    others = await registry.webhooks.add(URL, [E.ROLLBACK], by=BY)
    assert await registry.webhooks.alert(ALERT, {"percent": 80})
    assert not await registry.webhooks.alert(ALERT, {"percent": 80}), "another server was quicker"
    told = [len(await registry.webhooks.messages(w.id)) for w in (all_budgets, acmes, globexs, others)]
    assert told == [1, 1, 0, 0]
    (message,) = await registry.webhooks.messages(acmes.id)
    payload = json.loads(message.payload)
    assert (payload["type"], payload["data"]) == ("budget.threshold_reached", {"percent": 80})
    assert datetime.fromisoformat(payload["timestamp"]).tzinfo is not None
    assert (message.attempts, message.sent_at) == (0, None)
    assert [webhook.id for webhook in await registry.webhooks.list()].count(all_budgets.id) == 1
    assert "secret" not in repr(all_budgets) and all_budgets.secret not in str(await registry.audit.list())


async def test_webhooks_that_could_not_be_told_are_refused(registry: Registry) -> None:
    for events, tenant in (([], None), ([E.TEST], None), ([E.ENGINE_FAILED], "acme")):
        with pytest.raises(BadValue, match=r"can have the events budget\.threshold_reached"):
            await registry.webhooks.add(URL, events, by=BY, tenant=tenant)
    with pytest.raises(UnknownTenant):
        await registry.webhooks.add(URL, [E.BUDGET], by=BY, tenant="nobody")
    for call in (registry.webhooks.test("wh_0"), registry.webhooks.messages("wh_0")):
        with pytest.raises(UnknownWebhook):
            await call
    with pytest.raises(UnknownWebhook):
        await registry.webhooks.remove("wh_0", by=BY)


async def test_a_message_is_taken_by_one_server_at_a_time(registry: Registry) -> None:
    hooks = [await registry.webhooks.add(URL, [E.ENGINE_FAILED], by=BY) for _ in range(3)]
    for _ in range(6):
        await registry.webhooks.emit(E.ENGINE_FAILED, {})
    servers = [registry.webhooks, another(registry).webhooks]
    taken = [m.id for claim in await asyncio.gather(*(s.claim(16) for s in servers)) for m, _ in claim]
    taken += [m.id for server in servers for m, _ in await server.claim(16)]
    taken += [m.id for server in servers for m, _ in await server.claim(16)]
    assert len(taken) == len(set(taken)) == 18, "each once, though at most four per webhook at a time"
    later = utc_now() + CLAIM + timedelta(seconds=1)
    again = await registry.webhooks.claim(16, later)
    assert len(again) == 12 and all(message.attempts == 2 for message, _ in again), "its server may have died"
    assert {hook.id for _, hook in again} == {hook.id for hook in hooks}


async def test_what_fails_is_repeated_with_pauses_and_given_up_at_last(registry: Registry) -> None:
    hook = await registry.webhooks.add(URL, [E.ENGINE_FAILED], by=BY)
    await registry.webhooks.test(hook.id)
    now = utc_now()
    for attempt in range(1, len(BACKOFF) + 2):
        ((message, _),) = await registry.webhooks.claim(16, now)
        assert message.attempts == attempt
        await registry.webhooks.failed(message, "x" * 1000)
        (kept,) = await registry.webhooks.messages(hook.id)
        assert len(kept.last_error) == 200
        if attempt <= len(BACKOFF):
            assert kept.next_attempt_at is not None
            pause = kept.next_attempt_at - utc_now()
            assert timedelta(0) <= BACKOFF[attempt - 1] - pause < timedelta(seconds=30)
            now = kept.next_attempt_at
    assert kept.next_attempt_at is None and kept.sent_at is None


async def test_what_was_sent_is_not_sent_again_and_old_messages_go(registry: Registry) -> None:
    hook = await registry.webhooks.add(URL, [E.ENGINE_FAILED], by=BY)
    await registry.webhooks.test(hook.id)
    ((message, _),) = await registry.webhooks.claim(16)
    await registry.webhooks.sent(message)
    assert await registry.webhooks.claim(16, utc_now() + timedelta(days=1)) == ()
    table = billing_tables.webhook_messages
    await registry.webhooks.alert(ALERT, {})
    await registry.webhooks.forget()
    assert len(await registry.webhooks.messages(hook.id)) == 1
    async with registry.webhooks._database.write() as connection:
        await connection.execute(sa.update(table).values(created_at=utc_now() - timedelta(days=31)))
    await registry.webhooks.forget()
    assert await registry.webhooks.messages(hook.id) == ()
    await registry.webhooks.remove(hook.id, by=BY)


async def test_a_rollback_and_its_message_are_one_transaction(registry: Registry) -> None:
    hook = await registry.webhooks.add(URL, [E.ROLLBACK], by=BY, tenant="acme")
    numbers = [(await make_ready(registry)).number for _ in range(2)]
    for generation, number in enumerate(numbers):
        await registry.aliases.set(
            "acme", "support", [AliasTarget(number)], expected_generation=generation, by=BY
        )
    assert await registry.webhooks.messages(hook.id) == (), "a promotion is no rollback"
    targets = [AliasTarget(numbers[0])]
    with pytest.raises(Exception, match="generation"):
        await registry.aliases.set("acme", "support", targets, expected_generation=1, by=BY, restored=1)
    assert await registry.webhooks.messages(hook.id) == ()
    shell = Actor("shell:root")
    await registry.aliases.set("acme", "support", targets, expected_generation=2, by=shell, restored=1)
    canary = Actor("canary watch")
    await registry.aliases.set(
        "acme", "support", targets, expected_generation=3, by=canary, reason="too slow"
    )
    data = [json.loads(message.payload)["data"] for message in await registry.webhooks.messages(hook.id)]
    assert sorted((row["generation"], row["by"], row["reason"]) for row in data) == [
        (3, "operator", "asked for"),
        (4, "canary watch", "too slow"),
    ]
    first = next(row for row in data if row["generation"] == 3)
    assert (first["model"], first["before"], first["targets"]) == (
        "acme-support",
        [[numbers[1], 1.0]],
        [[numbers[0], 1.0]],
    )
