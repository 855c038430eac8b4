"""The ledger: nothing is lost, nothing is counted twice, whenever it is written."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manual_clock import ManualClock

from adapters.errors import UnknownKey
from adapters.models import Usage
from server.observability.scheduler_stats import Report, SchedulerStats
from server.request.context import UsageCounters
from server.usage import ledger as ledger_module
from server.usage.ledger import Ledger

NOON = datetime(2026, 3, 17, 12, 30, tzinfo=UTC)


class Store:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.written: list[Usage] = []

    async def add(self, usage: Iterable[Usage]) -> None:
        self.written += usage

    def total(self, name: str, **where: Any) -> float:
        return sum(
            getattr(entry, name)
            for entry in self.written
            if all(getattr(entry, key) == value for key, value in where.items())
        )


class Engine:
    """The scheduler's count; `None` while there is no engine."""

    def __init__(self) -> None:
        self.counts: dict[str, float] | None = {}

    async def __call__(self) -> Report | None:
        if self.counts is None:
            return None
        return {"tenants": {tenant: {"kv_block_seconds": count} for tenant, count in self.counts.items()}}


def context(tenant: str = "acme", adapter: str = "support", version: int = 1, at: float = 1000.0) -> Any:
    target = SimpleNamespace(version=SimpleNamespace(adapter=adapter, number=version) if adapter else None)
    caller = SimpleNamespace(tenant_name=tenant, key=SimpleNamespace(account=""))
    return SimpleNamespace(caller=caller, target=target, usage=UsageCounters(), started_at=at)


def make() -> tuple[Ledger, Store, Engine, ManualClock]:
    table, engine, clock = Store(), Engine(), ManualClock()
    ledger = Ledger(table, SchedulerStats(engine), clock=clock, now=lambda: NOON)
    return ledger, table, engine, clock


def test_a_stream_is_written_while_it_runs() -> None:
    async def scenario() -> None:
        ledger, table, _, clock = make()
        running = context()
        with ledger.track(running):
            await ledger.flush()
            assert not table.written, "nothing has entered the engine"
            running.usage.prompt_tokens, running.usage.cached_tokens, running.usage.queue_s = 12, 4, 0.5
            clock.now_s += 2
            await ledger.flush()
            assert table.total("requests") == 1 and table.total("prompt_tokens") == 12
            for _ in range(5):
                running.usage.generated_tokens += 3
                clock.now_s += 1
                await ledger.flush()
            assert table.total("generated_tokens") == 15
        await ledger.flush()
        assert table.total("requests") == 1 and table.total("cached_tokens") == 4
        assert table.total("queue_s") == 0.5 and table.total("run_s") == pytest.approx(6.5)
        assert {entry.version for entry in table.written} == {1}

    asyncio.run(scenario())


def test_an_answer_that_comes_whole_is_written_while_it_grows() -> None:
    async def scenario() -> None:
        ledger, table, engine, clock = make()
        streamed, whole = context(), context(adapter="other")
        streamed.usage.prompt_tokens = 8

        def grow() -> None:
            whole.usage.prompt_tokens = 8
            whole.usage.generated_tokens += 1

        whole.usage.unstreamed.append(grow)
        with ledger.track(streamed), ledger.track(whole):
            clock.now_s += 1
            engine.counts = {"acme": 17.0}
            await ledger.flush()
            assert table.total("generated_tokens", adapter="other") == 1
            assert table.total("kv_block_seconds", adapter="other") == pytest.approx(9.0)
            assert table.total("kv_block_seconds", adapter="support") == pytest.approx(8.0)

    asyncio.run(scenario())


def test_what_was_refused_at_the_door_is_no_usage() -> None:
    async def scenario() -> None:
        ledger, table, _, _ = make()
        with pytest.raises(UnknownKey), ledger.track(context()):
            raise UnknownKey
        await ledger.flush()
        assert not table.written

    asyncio.run(scenario())


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["grow", "end", "flush"]), st.integers(0, 50)),
        max_size=60,
    )
)
def test_the_sum_is_what_the_meters_show_in_any_order(moves: list[tuple[int, str, int]]) -> None:
    async def scenario() -> None:
        ledger, table, _, clock = make()
        accounts = [("acme", "support", 1), ("acme", "", 0), ("globex", "tools", 3)]
        shown: Counter[tuple[str, str]] = Counter()
        open_: list[Any] = [None] * 3
        for which, move, amount in moves:
            clock.now_s += 0.1
            if open_[which] is None:
                running = context(*accounts[which], at=clock.now_s)
                watching = ledger.track(running)
                watching.__enter__()
                open_[which] = (running, watching)
            running, watching = open_[which]
            if move == "grow":
                running.usage.prompt_tokens = running.usage.prompt_tokens or 1 + amount
                running.usage.generated_tokens += amount
            elif move == "end":
                watching.__exit__(None, None, None)
                shown[accounts[which][0], "generated_tokens"] += running.usage.generated_tokens
                shown[accounts[which][0], "prompt_tokens"] += running.usage.prompt_tokens
                open_[which] = None
            else:
                await ledger.flush()
        for which, held in enumerate(open_):
            if held is not None:
                held[1].__exit__(None, None, None)
                shown[accounts[which][0], "generated_tokens"] += held[0].usage.generated_tokens
                shown[accounts[which][0], "prompt_tokens"] += held[0].usage.prompt_tokens
        await ledger.flush()
        for (tenant, name), amount in shown.items():
            assert table.total(name, tenant=tenant) == amount
        assert all(entry.run_s >= 0 for entry in table.written)

    asyncio.run(scenario())


def test_block_seconds_are_exact_per_tenant_and_divided_by_what_was_held() -> None:
    async def scenario() -> None:
        ledger, table, engine, clock = make()
        one, two = context(version=1), context(version=2)
        with ledger.track(one), ledger.track(two):
            one.usage.prompt_tokens, two.usage.prompt_tokens = 300, 100
            clock.now_s += 10
            engine.counts = {"acme": 40.0, "globex": 0.0, "": 7.0}  # a probe ran as nobody's
            await ledger.flush()
            assert table.total("kv_block_seconds", version=1) == pytest.approx(30)
            assert table.total("kv_block_seconds", version=2) == pytest.approx(10)
            assert {entry.tenant for entry in table.written} == {"acme"}
            engine.counts = None
            clock.now_s += 1
            await ledger.flush()
        engine.counts = {"acme": 45.0}
        await ledger.flush()
        assert table.total("kv_block_seconds") == pytest.approx(45)
        ledger._scheduler_stats.engine_started()
        with ledger.track(context()) as _:
            pass
        again = context(version=2)
        with ledger.track(again):
            again.usage.prompt_tokens = 1
            clock.now_s += 1
        engine.counts = {"acme": 6.0}
        await ledger.flush()
        assert table.total("kv_block_seconds") == pytest.approx(51), "a new engine counts from zero"

    asyncio.run(scenario())


def test_an_idle_engine_is_left_alone_and_a_slow_one_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        asked = 0

        async def never() -> Report | None:
            nonlocal asked
            asked += 1
            await asyncio.sleep(3600)
            return None

        monkeypatch.setattr(ledger_module, "REPORT_TIMEOUT_S", 0.01)
        table = Store()
        ledger = Ledger(table, SchedulerStats(never))
        await ledger.flush()
        assert asked == 0
        one = context()
        with ledger.track(one):
            one.usage.prompt_tokens = 3
        await ledger.flush()
        assert asked == 1 and table.total("prompt_tokens") == 3

    asyncio.run(scenario())
