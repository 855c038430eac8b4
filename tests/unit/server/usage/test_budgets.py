"""Budgets of tenants and keys against real databases: after a restart, under load, and over several servers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from postgres_process import postgres_process

from adapters.billing.prices import Price
from adapters.models import Actor, Key, Role, Tenant, Usage
from adapters.registry import Registry, connect, migrate
from adapters.registry.database import utc_now
from adapters.tenant_settings import BudgetPeriod, KeyLimits, TenantSettings
from sampling.endpoints import Endpoint
from sampling.resolution import Resolved
from server.admission import Admission
from server.admission.claims import KEY_PREFIX
from server.admission.errors import BudgetExhausted
from server.admission.leases import REPORT_INTERVAL_S, Leases
from server.fairness.shares import Capacity
from server.observability.scheduler_stats import SchedulerStats
from server.request.context import Caller, RequestContext, Target
from server.request.gate import Gate
from server.request.request_service import once
from server.usage.budgets import budget_states, restore_budgets
from server.usage.ledger import Ledger

BY = Actor("test")
CAPACITY = Capacity(kv_blocks=10_000, block_size_tokens=16, max_num_seqs=64)
PRICE = Price(1_000_000, 250_000, 3_000_000)
CLIENTS = 64


@dataclass
class Engine:
    """Generates a random number of tokens, up to what was asked for, in several turns of the event loop."""

    draw: random.Random
    errored: bool = False

    def generate(self, prompt: Any, params: Any, request_id: str, **rest: Any) -> AsyncGenerator[Any]:
        return self._stream(prompt, self.draw.randint(1, params.max_tokens))

    async def _stream(self, prompt: Any, tokens: int) -> AsyncGenerator[Any]:
        cached = self.draw.randint(0, len(prompt["prompt_token_ids"]) - 1)
        for index in range(tokens):
            await asyncio.sleep(0)
            output = SimpleNamespace(index=0, token_ids=[index], finish_reason=None)
            yield SimpleNamespace(
                prompt_token_ids=prompt["prompt_token_ids"],
                num_cached_tokens=cached,
                outputs=[output],
                metrics=None,
                prompt_logprobs=None,
            )

    async def abort(self, request_id: str) -> None:
        pass


class Server:
    """A gate, an admission and a ledger over one registry; of several servers if the registry is shared."""

    def __init__(self, registry: Registry, seed: int = 0) -> None:
        self.registry = registry
        shared = registry.membership.is_shared
        self.admission = Admission(CAPACITY, shared=shared)
        self.leases = Leases(registry.leases, lambda: self.admission.accounts) if shared else None
        self.gate = Gate(self.admission)
        self.draw = random.Random(seed)
        self.gate.attach(Engine(self.draw))
        self.ledger = Ledger(registry.usage, SchedulerStats(no_report))

    async def request(self, caller: Caller) -> None:
        """One request, counted in the ledger. Raises: AdmissionError."""
        prompt = {
            "type": "token",
            "prompt_token_ids": list(range(self.draw.randint(1, 50))),
            "cache_salt": "",
        }
        params = SimpleNamespace(
            max_tokens=self.draw.randint(1, 20), n=1, extra_args={}, output_kind=SimpleNamespace(name="DELTA"),
            logprobs=None, prompt_logprobs=None, logprob_token_ids=None,
        )  # fmt: skip
        sampling = Resolved({}, {"max_tokens": "request"}, ())
        tenant = caller.tenant.settings if caller.tenant else TenantSettings()
        context = RequestContext(
            "r", Endpoint.CHAT, caller, Target("base", None), sampling, tenant, "salt", price=PRICE
        )

        async def attempt() -> None:
            async with self.gate.admit(context):
                async for _ in self.gate.generate(prompt, params, "id"):
                    pass

        with self.ledger.track(context):
            await (self.leases.admitted if self.leases else once)(attempt)


async def no_report() -> None:
    return None


async def caller_with(registry: Registry, **limits: Any) -> Caller:
    """A new key of acme with these limits."""
    issued = await registry.keys.issue("acme", Role.INFERENCE, by=BY, limits=KeyLimits.parse(limits))
    return Caller(issued.key, await registry.tenants.get("acme"))


async def spend_all(servers: list[Server], caller: Caller) -> int:
    """64 clients ask until each was refused five times in a row; returns the number of refusals."""
    refused = 0

    async def client(server: Server) -> None:
        nonlocal refused
        in_a_row = 0
        while in_a_row < 5:
            try:
                await server.request(caller)
                in_a_row = 0
            except BudgetExhausted:
                refused += 1
                in_a_row += 1
                await asyncio.sleep(0.01)

    await asyncio.gather(*(client(servers[number % len(servers)]) for number in range(CLIENTS)))
    return refused


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[Registry]:
    engine = connect(sqlite_url)
    registry = Registry(engine)
    await registry.tenants.add(Tenant("acme"), by=BY)
    await registry.prices.set("", "", PRICE, by=BY, valid_from=start_of_year(), backdate=True)
    yield registry
    await engine.dispose()


def start_of_year() -> Any:
    return utc_now().replace(month=1, day=1, hour=0, minute=0, second=0, microsecond=0)


async def cost_of(registry: Registry, account: str) -> int:
    """What the ledger says that the key has cost, in nanos rounded up."""
    spent = (await registry.spending.of_keys(start_of_year()))[account]
    return -(-spent.cost_picos // 1000)


async def test_a_keys_budget_holds_under_64_clients_and_a_restart(sqlite: Registry) -> None:
    server = Server(sqlite)
    caller = await caller_with(sqlite, money_budget="0.01")
    assert await spend_all([server], caller) >= 5 * CLIENTS
    await server.ledger.flush()
    spent = await cost_of(sqlite, caller.key.account)
    # Refused when not even the smallest of five requests in a row fits; the largest costs 0.00011.
    assert 0.0098 * 10**9 < spent <= 0.01 * 10**9

    restarted = Server(sqlite, seed=1)
    await restore_budgets(sqlite, restarted.admission, utc_now())
    await spend_all([restarted], caller)
    await restarted.ledger.flush()
    assert await cost_of(sqlite, caller.key.account) <= 0.01 * 10**9

    rotated = await sqlite.keys.rotate(caller.key.id, by=BY)
    assert (rotated.key.account, rotated.key.limits) == (caller.key.account, caller.key.limits)
    (state,) = await budget_states(sqlite, utc_now(), "acme")
    assert (state.key, state.budget, state.allowed) == (caller.key.account, "money_budget", 10**10)
    assert state.percent in (98, 99, 100) and state.owner == KEY_PREFIX + caller.key.account


@pytest.mark.slow
async def test_a_keys_budget_holds_over_three_servers(tmp_path: Path) -> None:
    """The database knows what the key has cost before: the servers' leases begin with it."""
    with postgres_process() as database:
        url = f"postgresql://postgres@/postgres?host={database.folder}"
        await migrate(url)
        engines = [connect(url) for _ in range(3)]
        registries = [Registry(engine) for engine in engines]
        await registries[0].tenants.add(Tenant("acme"), by=BY)
        await registries[0].prices.set("", "", PRICE, by=BY, valid_from=start_of_year(), backdate=True)
        servers = [Server(registry, seed) for seed, registry in enumerate(registries)]
        caller = await caller_with(registries[0], money_budget="0.02", rpm=100_000)
        before = Usage("acme", "", 0, utc_now(), requests=1, generated_tokens=1000, key=caller.key.account)
        await registries[0].usage.add([before])  # 0.003

        async def report(server: Server) -> None:
            assert server.leases is not None
            while True:
                await asyncio.sleep(REPORT_INTERVAL_S / 5)
                await server.leases.report()

        reporting = [asyncio.create_task(report(server)) for server in servers]
        assert await spend_all(servers, caller) >= 5 * CLIENTS
        for task in reporting:
            task.cancel()
        await asyncio.wait(reporting)
        for server in servers:
            await server.ledger.flush()
        spent = await cost_of(registries[0], caller.key.account)
        assert 0.018 * 10**9 < spent <= 0.02 * 10**9
        for engine in engines:
            await engine.dispose()


async def test_budgets_come_back_for_their_own_period(sqlite: Registry) -> None:
    now = utc_now().replace(day=20, hour=12)
    daily = TenantSettings(money_budget=Decimal(100), budget_period=BudgetPeriod.DAY)
    await sqlite.tenants.add(Tenant("daily", daily), by=BY)
    await sqlite.tenants.add(Tenant("monthly", TenantSettings(token_budget=1000)), by=BY)
    key: Key = (await caller_with(sqlite)).key
    for day, tokens in ((now, 70), (now - timedelta(days=1), 700)):
        for tenant in ("daily", "monthly", "gone"):
            await sqlite.usage.add(
                [Usage(tenant, "", 0, day, requests=1, generated_tokens=tokens, key=key.account)]
            )
    admission = Admission(CAPACITY, wall_clock=now.timestamp)
    await restore_budgets(sqlite, admission, now)
    restored = {
        name: (account.period_used_tokens, account.period_used_nanos)
        for name, account in admission.accounts.items()
    }
    assert restored == {
        "acme": (0, 0),
        "daily": (70, 210_000),
        "monthly": (770, 2_310_000),
        KEY_PREFIX + key.account: (3 * 770, 3 * 2_310_000),
    }
    states = await budget_states(sqlite, now)
    assert [(state.tenant, state.budget, state.used) for state in states] == [
        ("daily", "money_budget", 210_000_000),
        ("monthly", "token_budget", 770),
    ]
    assert states[1].percent == 77 and states[1].ends > now
