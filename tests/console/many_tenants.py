"""An application with 50 tenants and 200 adapters, for the console: no engine is needed to look at lists."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from adapters.billing.prices import Price
from adapters.billing.webhooks import WebhookEvent
from adapters.models import SYSTEM, Role, Tenant, Usage
from adapters.registry import Registry, connect
from adapters.registry.schema import tables
from adapters.tenant_settings import KeyLimits
from server.app import demo_seed
from server.observability.history import Finished, History
from tests.unit.server.app.composed import Composed

TENANTS, ADAPTERS = 50, 200
FAILURES = 40
WEBHOOKS = 15
_NAMES = ("support", "sales-assistant-for-the-northern-region", "tools", "summaries")


async def fill(composed: Composed) -> None:
    """Add the tenants (beside the demo's), an adapter of several versions among 200, and failed requests."""
    registry = composed.server.registry
    await demo_seed.add_adapters(registry, composed.server.engine.adapters)
    for number in range(TENANTS - 2):
        await registry.tenants.add(Tenant(f"customer{number:02}"), by=SYSTEM)
    source = await registry.versions.get("acme", "support", 1)
    await _copy(composed, source)
    _remember(composed.server.observer.history)
    await _money(registry)
    for number in range(FAILURES):
        body = {"model": f"no-such-model-{number}", "messages": [{"role": "user", "content": "Hello!"}]}
        answer = await composed.ask("POST", "/v1/chat/completions", key="demo-acme", json=body)
        assert answer.status_code == 404


async def _copy(composed: Composed, source: object) -> None:
    """198 more adapters, with the artifact of the first; the last one has 30 versions."""
    now = datetime.now(UTC)
    same = {column.name: getattr(source, column.name) for column in tables.versions.columns}
    adapters, versions, aliases = [], [], []
    for number in range(ADAPTERS - 2):
        tenant = f"customer{number % (TENANTS - 2):02}"
        name = f"{_NAMES[number // (TENANTS - 2) % 4]}-{number:03}"
        key = {"tenant": tenant, "adapter": name}
        count = 30 if number == ADAPTERS - 3 else 1
        names = {"tenant": tenant, "name": name, "public_name": f"{tenant}-{name}"}
        adapters.append(names | {"next_number": count + 1, "created_at": now})
        for version in range(1, count + 1):
            at = now - timedelta(days=number % 40, hours=version)
            ids = {"number": version, "engine_id": 10_000 + 100 * number + version, "created_at": at}
            versions.append(same | key | ids)
        aliases.append(key | {"generation": 1, "targets": [[1, 1.0]], "updated_at": now})
    engine = connect(composed.server.settings.registry_url)
    async with engine.begin() as connection:
        await connection.execute(sa.insert(tables.adapters), adapters)
        await connection.execute(sa.insert(tables.versions), versions)
        await connection.execute(sa.insert(tables.aliases), aliases)
    await engine.dispose()


async def _money(registry: Registry) -> None:
    """Prices for everybody and 20 tenants, budgets that are used to 0 to 110 %, what was spent, and webhooks."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    past = {"valid_from": hour.replace(day=1, hour=0), "backdate": True}
    await registry.prices.set("", "", Price(2_000_000, 500_000, 4_000_000), by=SYSTEM, **past)
    for number in range(20):
        tenant, price = f"customer{number:02}", Price(1_000_000, 1_000_000, (number + 1) * 1_000_000)
        await registry.prices.set(tenant, "", price, by=SYSTEM, **past)
        await registry.tenants.set(tenant, {"money_budget": "10", "token_budget": 10**7}, by=SYSTEM)
        limits = KeyLimits.parse({"money_budget": "5"})
        issued = await registry.keys.issue(tenant, Role.INFERENCE, by=SYSTEM, note="their app", limits=limits)
        tokens = {"prompt_tokens": number * 10**5, "generated_tokens": number * 2 * 10**4}
        used = Usage(tenant, "", 0, hour, requests=number, key=issued.key.account, **tokens)
        await registry.usage.add([used])
    await registry.prices.set("customer00", "", None, by=SYSTEM)
    for number in range(WEBHOOKS):
        events = [WebhookEvent.BUDGET, WebhookEvent.ROLLBACK]
        url = f"https://hooks.example.com/a-rather-long-path-of-one-receiver/{number:02}"
        hook = await registry.webhooks.add(url, events, by=SYSTEM, tenant=f"customer{number:02}")
    message = await registry.webhooks.test(hook.id)
    await registry.webhooks.failed(message, "The name hooks.example.com is not known.", give_up=True)


def _remember(history: History) -> None:
    """A day of requests of two adapters, busier at noon, in which one minute of each quarter fails."""
    now_s = time.time()
    for minute in range(24 * 60, 0, -1):
        at_s = now_s - 60 * minute
        history._clock = lambda at_s=at_s: at_s  # type: ignore[misc]
        load = 1 + math.sin(minute / 228)
        for tenant, adapter in (("acme", "support"), ("globex", "tools")):
            ttft_s = 0.05 + 0.2 * load + 0.4 * (minute % 7 == 0)
            for _ in range(round(3 * load)):
                history.note(Finished(tenant, adapter, minute % 15 == 0, 120, 80, ttft_s))
        kv_blocks = round(400 * load)
        history.sample({"acme": {"running": round(4 * load), "waiting": minute % 3, "kv_blocks": kv_blocks}})
    history._clock = time.time
