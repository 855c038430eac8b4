"""Servers that lease parts of one limit: together they never exceed it, and one that is alone can use it all."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from manual_clock import ManualClock
from postgres_process import postgres_process

from adapters.billing.prices import FREE, Price
from adapters.errors import RegistryUnavailable
from adapters.models import Actor, Tenant
from adapters.registry import Registry, connect, migrate
from adapters.registry.replicas.leases import Granted, LeaseKind, LeaseOrder
from adapters.tenant_settings import TenantSettings
from server.admission import Admission, Reservation, leases
from server.admission.errors import BudgetExhausted, NeverFits, RateLimited, TooManyConcurrent
from server.admission.leased_parts import LeaseShort
from server.admission.leases import IDLE_S, REPORT_INTERVAL_S, Leases
from server.fairness.shares import Capacity

CAPACITY = Capacity(kv_blocks=10_000, block_size_tokens=16, max_num_seqs=64)
K = LeaseKind


@dataclass
class Store:
    """Grants up to `left`, and fails as told: before or after it has granted."""

    left: int = 100
    retry_s: float = 20.0
    orders: list[LeaseOrder] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    fails: list[str] = field(default_factory=list)
    answers: dict[int, tuple[Granted, ...]] = field(default_factory=dict)
    known_away: bool = False

    async def exchange(self, sequence: int, orders: Sequence[LeaseOrder]) -> tuple[Granted, ...]:
        self.sequences.append(sequence)
        await asyncio.sleep(0)
        how = self.fails.pop(0) if self.fails else ""
        if how == "late":
            await asyncio.sleep(0.4)
            raise RegistryUnavailable
        if how == "before":
            raise RegistryUnavailable
        if sequence not in self.answers:
            self.answers[sequence] = tuple(map(self._grant, orders))
            self.orders += orders
        if how == "after":
            raise RegistryUnavailable
        return self.answers[sequence]

    def _grant(self, order: LeaseOrder) -> Granted:
        self.left += order.back
        granted = 0
        if order.want and order.need <= self.left:
            granted = min(self.left, max(order.need, order.want // 4))
        self.left -= granted
        return Granted(order.tenant, order.kind, granted, self.left, self.retry_s)


@dataclass
class Server:
    store: Any
    clock: Any = field(default_factory=ManualClock)
    settings: TenantSettings = field(default_factory=lambda: TenantSettings(tpm=100))
    admission: Admission = field(init=False)
    leases: Leases = field(init=False)

    def __post_init__(self) -> None:
        self.admission = Admission(CAPACITY, self.clock, shared=True)
        self.leases = Leases(self.store, lambda: self.admission.accounts, self.clock)

    async def reserve(
        self, prompt: int = 5, answer: int = 5, n: int = 1, *, price: Price = FREE, background: bool = False
    ) -> Reservation:
        made = []
        need: dict[str, Any] = {"prompt_tokens": prompt, "max_tokens": answer, "price": price}

        async def attempt() -> None:
            if background:
                made.append(self.admission.reserve_background("acme", self.settings, **need))
            else:
                made.append(self.admission.reserve("acme", self.settings, n=n, **need))

        await self.leases.admitted(attempt)
        return made[0]

    def held(self, kind: LeaseKind = K.TOKENS) -> int:
        leased = self.admission.accounts["acme"].leased
        assert leased is not None
        return leased.held.get(kind, 0)


async def test_one_call_serves_many_requests() -> None:
    server = Server(Store())
    reservations = [await server.reserve(1, 1) for _ in range(12)]
    assert server.leases.exchanges == 1 and server.held() == 25
    for reservation in reservations:
        reservation.settle(prompt_tokens=1, cached_tokens=0, generated_tokens=0)
    assert server.held() == 13
    await server.leases.report()
    assert [(order.used, order.back, order.need) for order in server.store.orders[1:]] == [(12, 0, 0)]


async def test_no_limit_needs_no_lease() -> None:
    server = Server(Store(), settings=TenantSettings())
    (await server.reserve()).release()
    await server.leases.report()
    assert server.store.sequences == []


async def test_requests_that_come_at_once_share_a_call() -> None:
    server = Server(Store())
    await asyncio.gather(*(server.reserve(1, 1) for _ in range(10)))
    assert server.leases.exchanges <= 2


@pytest.mark.parametrize(
    ("settings", "error", "limit"),
    [
        (TenantSettings(tpm=100), RateLimited, "tpm"),
        (TenantSettings(rpm=100), RateLimited, "rpm"),
        (TenantSettings(token_budget=100), BudgetExhausted, "token_budget"),
        (TenantSettings(max_concurrency=100), TooManyConcurrent, "max_concurrency"),
    ],
)
async def test_a_refusal_is_of_the_limits_kind_and_is_remembered(
    settings: TenantSettings, error: type[Exception], limit: str
) -> None:
    server = Server(Store(left=0), settings=settings)
    for _ in range(3):
        with pytest.raises(
            error, match=f"more of {limit}, of which all servers together hold 100 and 100"
        ) as caught:
            await server.reserve()
        assert caught.value.retry_after_s == 20.0  # type: ignore[attr-defined]
    assert server.leases.exchanges == 1
    server.store.left = 100
    server.clock.now_s += 1.1
    await server.reserve()


async def test_a_refusal_gives_its_figures() -> None:
    with pytest.raises(RateLimited) as caught:
        await Server(Store(left=3)).reserve(4, 6)
    assert str(caught.value) == (
        "The request needs 10 more of tpm, of which all servers together hold 97 and 100 are allowed. "
        "Wait and send it again."
    )
    error = caught.value
    assert (error.limit, error.asked, error.used, error.allowed) == ("tpm", 10, 97, 100)


async def test_the_last_of_a_limit_is_granted() -> None:
    server = Server(Store(left=10))
    await server.reserve(4, 6)
    assert (server.store.left, server.held()) == (0, 10)


async def test_the_largest_of_what_waits_is_asked_for() -> None:
    server = Server(Store())
    await asyncio.gather(server.reserve(1, 1), server.reserve(20, 20), server.reserve(1, 1))
    assert [order.need for order in server.store.orders] == [40, 2]
    assert server.leases.exchanges == 2


async def test_work_beside_the_model_needs_no_budget() -> None:
    settings = TenantSettings(tpm=100, rpm=100, token_budget=100, max_concurrency=100)
    server = Server(Store(left=400), settings=settings)
    made: list[Reservation] = []

    async def attempt() -> None:
        made.append(server.admission.reserve_tokenizing("acme", settings, tokens=7))

    with pytest.raises(LeaseShort, match="are missing") as caught:
        await attempt()
    assert caught.value.tenant == "acme" and caught.value.missing == {
        K.REQUESTS: 1,
        K.TOKENS: 7,
        K.SEQUENCES: 1,
    }
    assert (caught.value.asked, caught.value.allowed) == (next(iter(caught.value.missing.values())), 0)
    assert caught.value.limit == next(iter(caught.value.missing))
    await server.leases.admitted(attempt)
    made[0].settle(prompt_tokens=5, cached_tokens=0, generated_tokens=0)
    await server.leases.report()
    used = {order.kind: order.used for order in server.store.orders if order.used}
    assert used == {K.REQUESTS: 1, K.TOKENS: 5}


async def test_each_limit_is_asked_for_with_its_period() -> None:
    settings = TenantSettings(tpm=100, rpm=100, token_budget=100, max_concurrency=100)
    server = Server(Store(left=400), settings=settings)
    await server.reserve(4, 6, n=2)
    asked = {order.kind: (order.need, order.cap, order.period) for order in server.store.orders}
    assert asked == {
        K.REQUESTS: (1, 100, "minute"),
        K.TOKENS: (16, 100, "minute"),
        K.BUDGET: (16, 100, settings.budget_period.value),
        K.SEQUENCES: (2, 100, "none"),
    }


async def test_what_is_used_is_not_held_any_more() -> None:
    server = Server(Store(left=10))
    (await server.reserve(4, 6)).settle(prompt_tokens=4, cached_tokens=0, generated_tokens=6)
    assert server.held() == 0


async def test_a_refusal_that_ends_at_once_is_a_refusal() -> None:
    server = Server(Store(left=0, retry_s=0.0))
    with pytest.raises(RateLimited, match="all servers together hold 100") as caught:
        await server.reserve()
    assert caught.value.retry_after_s == 1.0 and server.leases.exchanges == 1


async def test_who_gets_nothing_because_others_took_it_is_told_so() -> None:
    server = Server(Store(left=1_000))

    async def others_were_first() -> None:
        raise LeaseShort("acme", {K.TOKENS: 10})

    (await server.reserve()).release()
    with pytest.raises(RateLimited) as caught:
        await server.leases.admitted(others_were_first)
    error = caught.value
    assert str(error) == (
        "The request needs 10 more of tpm, and other requests of this tenant, on all servers together, took what "
        "became free. Wait and send it again."
    )
    assert (error.limit, error.asked, error.used, error.allowed) == ("tpm", 10, 100, 100)
    assert error.retry_after_s == 1.0


async def test_what_never_fits_is_not_asked_for() -> None:
    server = Server(Store())
    with pytest.raises(NeverFits):
        await server.reserve(101)
    assert server.store.sequences == []


async def test_what_is_idle_is_given_back_but_not_what_runs() -> None:
    server = Server(Store())
    running = await server.reserve(2, 8)
    server.clock.now_s += IDLE_S + 1
    await server.leases.report()
    assert server.held() == 10 and server.store.left == 90
    running.settle(prompt_tokens=2, cached_tokens=0, generated_tokens=3)
    server.clock.now_s += IDLE_S + 1
    await server.leases.report()
    assert server.held() == 0 and server.store.left == 95


async def test_all_is_given_back_at_the_end() -> None:
    server = Server(Store())
    (await server.reserve(2, 8)).release()
    await server.leases.aclose()
    assert server.store.left == 100 and server.held() == 0


async def test_a_limit_that_is_lifted_is_given_back() -> None:
    server = Server(Store())
    (await server.reserve(2, 8)).release()
    server.settings = TenantSettings()
    (await server.reserve(2, 8)).release()
    await server.leases.report()
    assert server.store.left == 100


@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_lost_answer_counts_once(how: str) -> None:
    server = Server(Store(fails=[how]))
    with pytest.raises(RegistryUnavailable):
        await server.reserve(4, 4)
    (await server.reserve(4, 4)).settle(prompt_tokens=4, cached_tokens=0, generated_tokens=4)
    server.store.fails = [how]
    with pytest.raises(RegistryUnavailable):
        await server.leases.report()
    await server.leases.report()
    assert server.store.left + server.held() + sum(order.used for order in server.store.orders) == 100


async def test_without_a_database_it_serves_from_what_it_holds() -> None:
    server = Server(Store())
    await server.reserve(1, 1)
    server.store.fails = ["before"] * 9
    for _ in range(11):
        await server.reserve(1, 1)
    with pytest.raises(RegistryUnavailable):
        await server.reserve(2, 2)


async def test_a_request_waits_shortly_for_a_database_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that asks, and those that wait for its call; when it answers again, nothing has been counted twice."""
    monkeypatch.setattr(leases, "LEASE_TIMEOUT_S", 0.1)
    server = Server(Store(fails=["late"]))
    began_s = time.monotonic()
    results = await asyncio.gather(*(server.reserve(1, 1) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [RegistryUnavailable] * 3
    assert time.monotonic() - began_s < 0.3
    await asyncio.sleep(0.4)
    (await server.reserve(2, 2)).settle(prompt_tokens=2, cached_tokens=0, generated_tokens=2)
    await server.leases.report()
    assert server.store.left + server.held() + sum(order.used for order in server.store.orders) == 100


async def test_nobody_waits_for_a_database_that_is_known_to_be_away() -> None:
    server = Server(Store(fails=["late"]))
    first = asyncio.create_task(server.reserve(1, 1))
    while not server.store.sequences:
        await asyncio.sleep(0)
    server.store.known_away = True
    began_s = time.monotonic()
    with pytest.raises(RegistryUnavailable):
        await server.reserve(1, 1)
    assert time.monotonic() - began_s < 0.2
    with pytest.raises(RegistryUnavailable):
        await first


async def test_who_leaves_ends_no_call_that_others_wait_for() -> None:
    server = Server(Store())
    leaving, staying = (asyncio.create_task(server.reserve(1, 1)) for _ in range(2))
    while not server.store.sequences:
        await asyncio.sleep(0)
    leaving.cancel()
    (await staying).release()
    assert leaving.cancelled() and server.leases.exchanges == 1 == len(server.store.answers)


async def test_places_that_are_in_use_are_told_each_time() -> None:
    server = Server(Store(), settings=TenantSettings(max_concurrency=100))
    running = await server.reserve()
    for _ in range(2):
        await server.leases.report()
    told = server.store.orders[1:]
    assert [(order.kind, order.held, order.need) for order in told] == [(K.SEQUENCES, 25, 0)] * 2
    running.release()
    await server.leases.report()
    assert len(server.store.orders) == 3


async def test_the_headers_tell_what_all_servers_have_left() -> None:
    server = Server(Store(left=60))
    await server.reserve(4, 6)
    headers = server.admission.headers("acme", server.settings)
    assert headers["x-ratelimit-limit-tokens"] == "100"
    assert headers["x-ratelimit-remaining-tokens"] == str(60 - 10)
    assert Server(Store()).admission.headers("acme", server.settings)["x-ratelimit-remaining-tokens"] == "100"


@pytest.fixture
async def registries(tmp_path: Path) -> AsyncIterator[list[Registry]]:
    with postgres_process() as database:
        url = f"postgresql://postgres@/postgres?host={database.folder}"
        await migrate(url)
        engines = [connect(url) for _ in range(3)]
        made = [Registry(engine) for engine in engines]
        await made[0].tenants.add(Tenant("acme"), by=Actor("test"))
        yield made
        for engine in engines:
            await engine.dispose()


@pytest.mark.slow
async def test_three_servers_on_a_real_database_never_exceed_a_limit_together(
    registries: list[Registry],
) -> None:
    """Requests of random sizes, of which some are never settled; at each moment the true sum is within the limits."""
    settings = TenantSettings(tpm=3000, rpm=120, max_concurrency=9)
    servers = [Server(registry.leases, asyncio.get_running_loop().time, settings) for registry in registries]
    draw, running, tokens, requests, refused = random.Random(3), 0, 0, 0, 0

    async def call(server: Server) -> None:
        nonlocal running, tokens, requests, refused
        for _ in range(40):
            prompt, answer = draw.randint(1, 40), draw.randint(1, 60)
            try:
                reservation = await server.reserve(prompt, answer)
            except (RateLimited, TooManyConcurrent):
                refused += 1
                await asyncio.sleep(0.01)
                continue
            running, requests = running + 1, requests + 1
            assert running <= 9 and requests <= 120
            await asyncio.sleep(draw.random() * 0.01)
            used = draw.randint(0, answer)
            tokens += prompt + used
            assert tokens <= 3000  # the test takes less than a minute
            running -= 1
            reservation.settle(prompt_tokens=prompt, cached_tokens=0, generated_tokens=used)

    async def report(leases: Leases) -> None:
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            await leases.report()

    reporting = [asyncio.create_task(report(server.leases)) for server in servers]
    await asyncio.gather(*(call(server) for server in servers for _ in range(4)))
    for task in reporting:
        task.cancel()
    assert refused and (requests >= 114 or tokens >= 2850)
    assert sum(server.leases.exchanges for server in servers) < 480


@pytest.mark.slow
async def test_background_work_of_two_servers_never_spends_more_than_the_shared_budget(
    registries: list[Registry],
) -> None:
    """Evaluations on both servers beside requests: what they spend together is within the budget in money."""
    price = Price(1_000_000, 1_000_000, 2_000_000)  # 1e-6 and 2e-6 for a token
    settings = TenantSettings(money_budget=Decimal("0.02"))
    servers = [
        Server(registry.leases, asyncio.get_running_loop().time, settings) for registry in registries[:2]
    ]
    draw, spent, done = random.Random(5), 0, {True: 0, False: 0}

    async def call(server: Server, background: bool) -> None:
        nonlocal spent
        while done[background] < 400:
            prompt, answer = draw.randint(1, 40), draw.randint(1, 60)
            try:
                reservation = await server.reserve(prompt, answer, price=price, background=background)
            except BudgetExhausted:
                return
            await asyncio.sleep(draw.random() * 0.01)
            used = draw.randint(0, answer)
            spent += price.cost_nanos(prompt_tokens=prompt, cached_tokens=0, generated_tokens=used)
            assert spent <= 20_000_000
            done[background] += 1
            reservation.settle(prompt_tokens=prompt, cached_tokens=0, generated_tokens=used)

    await asyncio.gather(*(call(s, background) for s in servers for background in (True, True, True, False)))
    for server in servers:
        await server.leases.report()
        account = server.admission.accounts["acme"]
        assert account.reserved_nanos == account.background_tokens == 0
    query = sa.text(
        "SELECT (SELECT sum(amount) FROM lease_uses WHERE kind = 'money'), (SELECT sum(held) FROM leases)"
    )
    async with registries[0].leases._database.read() as connection:
        used, held = (await connection.execute(query)).one()
    assert used == spent, "the database knows what was spent"
    assert used + held <= 20_000_000
    assert min(done.values()) > 20 and spent > 15_000_000
