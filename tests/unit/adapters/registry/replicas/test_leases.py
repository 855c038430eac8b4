"""Parts of a limit never exceed it together; what crashes counts, what is idle comes back."""

from __future__ import annotations

import asyncio
import math
import random
import time
from datetime import timedelta

import pytest
import sqlalchemy as sa

from adapters.models import Usage
from adapters.registry import Registry
from adapters.registry.database import utc_now
from adapters.registry.replicas import membership
from adapters.registry.replicas.leases import Granted, LeaseKind, LeaseOrder
from adapters.registry.schema import lease_functions, replica_tables
from tests.unit.adapters.lifecycle.support import another

K = LeaseKind


class Server:
    """One server's exchanges, numbered."""

    def __init__(self, registry: Registry) -> None:
        self.registry = another(registry)
        self.sequence = 0
        self.held = 0

    async def ask(
        self, need: int, want: int = 0, *, kind: LeaseKind = K.TOKENS, **more: int | str
    ) -> Granted:
        self.sequence += 1
        period = "none" if kind is K.SEQUENCES else str(more.pop("period", "minute"))
        order = LeaseOrder(
            "acme", kind, int(more.pop("cap", 100)), period, need=need, want=want or need, **more
        )  # type: ignore[arg-type]
        (answer,) = await self.registry.leases.exchange(self.sequence, [order])
        self.held += answer.granted - order.used - order.back
        return answer


async def let_judge(server: Server) -> None:
    """As if it had been seen for long enough to say who is dead."""
    await server.registry.membership.beat()
    server.registry.membership._unbroken_since = 0.0


@pytest.fixture
def servers(postgres_registry: Registry) -> list[Server]:
    return [Server(postgres_registry) for _ in range(3)]


async def age(registry: Registry, seconds: int) -> None:
    """Let all uses of minutes be so much older."""
    table = replica_tables.lease_uses
    async with registry.membership._database.write() as connection:
        await connection.execute(sa.update(table).values(bucket=table.c.bucket - seconds))


async def total(registry: Registry, kind: LeaseKind = K.TOKENS) -> int:
    """All that is held or used."""
    async with registry.membership._database.read() as connection:
        held, used = (
            sa.select(sa.func.coalesce(sa.func.sum(table.c[name]), 0))
            .where(table.c.kind == kind)
            .scalar_subquery()
            for table, name in ((replica_tables.leases, "held"), (replica_tables.lease_uses, "amount"))
        )
        return int((await connection.execute(sa.select(held + used))).scalar_one())


async def test_a_limit_is_shared_out_and_never_exceeded(servers: list[Server]) -> None:
    first, second, _ = servers
    assert (await first.ask(60)).granted == 60
    refused = await second.ask(50)
    assert (refused.granted, refused.left) == (0, 40) and 1 <= refused.retry_s <= 61
    assert (await second.ask(40)).granted == 40


async def test_more_than_needed_is_granted_while_there_is_enough(servers: list[Server]) -> None:
    first, second, _ = servers
    assert (await first.ask(1, 90)).granted == 25  # a quarter for one server
    assert (await second.ask(1, 90)).granted == 12  # an eighth for each of two
    assert (await first.ask(60, 90)).granted == 60


async def test_what_was_used_counts_for_a_minute(servers: list[Server]) -> None:
    first, second, _ = servers
    await first.ask(80)
    await asyncio.sleep(1.01 - time.time() % 1)
    began_s = int(time.time())
    await first.ask(0, used=80)
    assert (await second.ask(30)).granted == 0
    await age(first.registry, 60)
    in_its_second = (
        await second.ask(30)
    ).granted  # which has begun, and not ended, if the machine is not slow
    assert in_its_second == 0 or int(time.time()) > began_s
    await age(first.registry, 1)
    assert (await second.ask(30)).granted == 30


async def test_what_is_given_back_can_be_had_at_once(servers: list[Server]) -> None:
    first, second, _ = servers
    await first.ask(90)
    await first.ask(0, used=20, back=70)
    assert (await second.ask(80)).granted == 80


async def test_a_batch_that_is_sent_twice_counts_once(servers: list[Server]) -> None:
    first, second, _ = servers
    order = LeaseOrder("acme", K.TOKENS, 100, "minute", need=30, want=30)
    answers = [await first.registry.leases.exchange(1, [order]) for _ in range(2)]
    assert answers[0] == answers[1]
    report = LeaseOrder("acme", K.TOKENS, 100, "minute", back=10)
    for _ in range(2):
        await first.registry.leases.exchange(2, [report])
    assert (await second.ask(1)).left == 79 and await total(first.registry) == 21


async def test_sequences_are_held_and_not_used_up(servers: list[Server]) -> None:
    first, second, _ = servers
    assert (await first.ask(3, kind=K.SEQUENCES, cap=4)).granted == 3
    assert (await second.ask(2, kind=K.SEQUENCES, cap=4)).granted == 0
    await first.ask(0, kind=K.SEQUENCES, cap=4, back=2)
    assert (await second.ask(2, kind=K.SEQUENCES, cap=4)).granted == 2


async def test_a_budget_counts_what_the_ledger_has_and_ends_with_its_period(servers: list[Server]) -> None:
    first, second, _ = servers
    now = utc_now()
    used = [Usage("acme", "support", 1, now, prompt_tokens=20, generated_tokens=30)]
    old = [Usage("acme", "support", 1, now - timedelta(days=40), prompt_tokens=1000)]
    await first.registry.usage.add(used + old)
    assert (await first.ask(40, kind=K.BUDGET, period="month")).granted == 40
    await first.ask(0, kind=K.BUDGET, period="month", used=40)
    assert (await second.ask(11, kind=K.BUDGET, period="month")).granted == 0
    assert (await second.ask(10, kind=K.BUDGET, period="month")).granted == 10
    await age(first.registry, 40 * 86_400)
    await first.registry.usage.add([Usage("acme", "support", 1, now, prompt_tokens=5)])
    assert (await first.ask(35, kind=K.BUDGET, period="month")).granted == 100 - 55 - 10


async def test_a_lowered_limit_holds_at_once(servers: list[Server]) -> None:
    first, second, _ = servers
    await first.ask(60)
    assert (await second.ask(1, cap=50)).granted == 0
    assert (await second.ask(1, cap=61)).granted == 1


async def test_what_a_dead_server_held_counts_as_used(servers: list[Server]) -> None:
    first, second, _ = servers
    await first.ask(60)
    await first.ask(2, kind=K.REQUESTS)
    await first.ask(3, kind=K.SEQUENCES, cap=4)
    await let_judge(second)
    assert await second.registry.leases.take_over() == 2
    assert await second.registry.leases.take_over() == 0
    assert (await second.ask(4, kind=K.SEQUENCES, cap=4)).granted == 4
    assert (await second.ask(50)).granted == 0 and (await second.ask(40)).granted == 40
    await age(second.registry, 61)
    assert (await second.ask(60)).granted == 60


async def test_who_was_thought_dead_gets_back_what_runs_on_it(servers: list[Server]) -> None:
    first, second, _ = servers
    await first.ask(3, kind=K.SEQUENCES, cap=4)
    await let_judge(second)
    await second.registry.leases.take_over()
    assert await total(first.registry, K.SEQUENCES) == 0
    await first.ask(0, kind=K.SEQUENCES, cap=4, held=3)
    assert (await second.ask(2, kind=K.SEQUENCES, cap=4)).granted == 0
    assert (await second.ask(1, kind=K.SEQUENCES, cap=4)).granted == 1


async def test_who_comes_to_life_during_a_take_over_keeps_what_it_holds(servers: list[Server]) -> None:
    first, second, _ = servers
    await first.ask(3, kind=K.SEQUENCES, cap=4)
    await let_judge(second)
    live = second.registry.membership.live

    async def live_before() -> object:
        found = await live()
        await first.registry.membership.beat()
        return found

    second.registry.membership.live = live_before  # type: ignore[method-assign, assignment]
    await second.registry.leases.take_over()
    assert await total(first.registry, K.SEQUENCES) == 3


def test_both_sides_agree_on_when_a_server_is_dead() -> None:
    assert lease_functions._DEAD_AFTER_S == membership.DEAD_AFTER_S


async def test_nothing_is_taken_from_the_living(servers: list[Server]) -> None:
    first, second, _ = servers
    await first.registry.membership.beat()
    await first.ask(60)
    await let_judge(second)
    assert await second.registry.leases.take_over() == 0 and await total(first.registry) == 60


async def test_tenants_and_kinds_do_not_mix(servers: list[Server]) -> None:
    first, _, _ = servers
    orders = [
        LeaseOrder(tenant, kind, 10, "minute", need=10, want=10)
        for tenant in ("globex", "acme")
        for kind in (K.TOKENS, K.REQUESTS)
    ]
    answers = await first.registry.leases.exchange(1, orders)
    assert {(answer.tenant, answer.kind): answer.granted for answer in answers} == {
        (order.tenant, order.kind): 10 for order in orders
    }


async def test_many_at_once_never_exceed_the_limit(servers: list[Server]) -> None:
    draw = random.Random(7)

    async def serve(server: Server) -> None:
        for _ in range(25):
            used = draw.randint(0, server.held)
            back = draw.randint(0, server.held - used)
            await server.ask(draw.randint(0, 30), draw.randint(0, 60), used=used, back=back)
            assert await total(server.registry) <= 100

    await asyncio.gather(*map(serve, servers))


async def test_who_is_refused_learns_the_moment_at_which_more_is_free(servers: list[Server]) -> None:
    first, second, _ = servers
    await first.ask(100)
    await first.ask(0, used=100)
    await age(first.registry, 30)
    refused = await second.ask(1)
    assert refused.granted == 0 and 0 < refused.retry_s <= 31
    early_s = 10  # a slow machine may need some of them
    await age(first.registry, math.ceil(refused.retry_s) - early_s)
    assert (await second.ask(1)).granted == 0
    await age(first.registry, early_s)
    assert (await second.ask(1)).granted == 1
