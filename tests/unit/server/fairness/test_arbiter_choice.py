"""Whom the arbiter serves next: counters, guarantees and LoRA turns on small examples, and what a choice may cost."""

from __future__ import annotations

import pytest

from adapters.tenant_settings import TenantSettings
from server.fairness.arbiter import Arbiter
from server.fairness.interfaces import BudgetStanding
from server.fairness.shares import Capacity, Share
from server.fairness.waiting_queue import Entry
from tests.unit.server.fairness.fixed_engine import Engine, Item
from tests.unit.server.fairness.simulation import SimEngine

CAPACITY = Capacity(kv_blocks=60, block_size_tokens=4, max_num_seqs=8)
PLAIN, LIMITED = TenantSettings(), TenantSettings(kv_limit=0.2)


def service(engine: SimEngine, tenant: str) -> float:
    return engine.arbiter.charges.virtual_counters.of(tenant)


def charge(engine: SimEngine, tenant: str, tokens: int) -> None:
    engine.arbiter.charges.virtual_counters.charge(tenant, 1.0, prompt_tokens=tokens)


# Counters


def test_only_a_tenant_that_was_idle_is_lifted() -> None:
    engine = SimEngine(CAPACITY)
    for tenant in ("a", "b"):
        engine.add(tenant, PLAIN, 8, 5)
    charge(engine, "b", 50)
    engine.add("a", PLAIN, 8, 5)
    assert service(engine, "a") == 0, "it waits already: the 50 are its due"


def test_a_tenant_is_lifted_to_those_that_could_start_and_once_when_its_own_limit_ends() -> None:
    engine = SimEngine(CAPACITY)
    engine.add("limited", LIMITED, 8, 1)
    engine.step()
    waiting = engine.entries[engine.add("limited", LIMITED, 8, 9)]
    engine.add("limited", LIMITED, 8, 9)
    engine.schedule()
    engine.add("other", PLAIN, 8, 5)
    charge(engine, "other", 100)
    assert engine.arbiter.standing(engine.arbiter.queue.heads("limited")[0]) is BudgetStanding.OVER_LIMIT
    reached = service(engine, "other")
    engine.add("new", PLAIN, 8, 5)
    assert service(engine, "new") == reached, "not to the one that waits for its limit"
    engine.arbiter.dequeue(engine.entries["new-4"])
    engine._free(waiting.request_id)
    for charged in (0, 70):
        charge(engine, "other", charged)
        assert engine.arbiter.standing(engine.arbiter.queue.heads("limited")[0]) is BudgetStanding.BORROWING
        assert service(engine, "limited") == reached, "what others had while it could start is its due"


def test_a_tenant_that_still_waits_is_not_the_measure_of_who_comes_when_nobody_could_start() -> None:
    engine = SimEngine(CAPACITY)
    engine.add("limited", LIMITED, 8, 9)
    engine.step()
    leaving = engine.add("left", PLAIN, 8, 9)
    names = [engine.add("limited", LIMITED, 8, 9) for _ in range(2)]
    charge(engine, "left", 100)
    reached = service(engine, "left")
    assert engine.arbiter.standing(engine.entries[names[0]]) is BudgetStanding.OVER_LIMIT
    for name in (leaving, names[1]):
        engine.arbiter.dequeue(engine.entries[name])
    engine.add("new", PLAIN, 8, 5)
    assert service(engine, "new") == reached


# Guarantees


def test_the_last_block_of_a_guarantee_is_taken_back_too() -> None:
    engine = SimEngine(CAPACITY)
    owed = TenantSettings(kv_guarantee=0.25)  # 15 blocks, 2 slots
    engine.add("owed", owed, 53, 50)  # 14 blocks
    engine.add("big", PLAIN, 181, 3)  # all the others
    engine.step()
    last = engine.add("owed", owed, 3, 1)
    assert engine.step() == [last]
    assert engine.preemptions == ["big-1"]


def test_who_gives_way_to_a_guarantee_starts_nothing_else_in_this_step() -> None:
    engine = SimEngine(CAPACITY)
    large = engine.add("far", PLAIN, 197, 20)  # 50 blocks of 60
    engine.step()
    small = engine.add("far", PLAIN, 3, 9)
    owed = engine.add("owed", TenantSettings(kv_guarantee=0.5), 48, 20)
    assert engine.step() == [owed]
    assert engine.preemptions == [large]
    assert engine.arbiter.queue.has(engine.entries[small]), (
        "there is room for it, behind the one that gave way"
    )


def test_who_gives_way_to_its_limit_starts_nothing_else_in_this_step() -> None:
    engine = SimEngine(CAPACITY)
    older, newer = (engine.add("a", PLAIN, prompt, 20) for prompt in (38, 30))  # 10 and 8 blocks
    engine.step()
    small = engine.add("a", TenantSettings(kv_limit=0.25), 3, 9)  # 15 blocks, 2 slots
    assert engine.step() == []
    assert engine.preemptions == [newer] and [a.request_id for a in engine.running()] == [older]
    assert engine.arbiter.queue.has(engine.entries[small]), "it would fit, behind the one that gave way"


@pytest.mark.parametrize(("first", "second"), [("a", "z"), ("z", "a")])
@pytest.mark.parametrize("least_served", ["a", "z"])
def test_of_two_tenants_below_their_guarantee_the_least_served_gets_the_only_room(
    first: str, second: str, least_served: str
) -> None:
    engine = SimEngine(Capacity(kv_blocks=60, block_size_tokens=4, max_num_seqs=3))
    for tenant, guarantee in (("kept", 0.7), ("kept", 0.7), ("big", 0.0)):
        engine.add(tenant, TenantSettings(kv_guarantee=guarantee), 8, 50)
    engine.step()
    names = {
        tenant: engine.add(tenant, TenantSettings(kv_guarantee=0.1), 8, 50) for tenant in (first, second)
    }
    charge(engine, "a" if least_served == "z" else "z", 30)
    assert engine.step() == [names[least_served]]
    assert engine.preemptions == ["big-2"]
    assert engine.arbiter.counters.starved_steps == 0, "the room was planned for the one that took it"


def test_what_starts_without_a_guarantee_is_borrowing_whatever_was_chosen_before() -> None:
    engine = SimEngine(CAPACITY)
    arbiter = engine.arbiter
    engine.add("a", TenantSettings(kv_guarantee=0.3), 8, 5)
    engine.add("b", PLAIN, 8, 5)
    for starved in (1, 2):
        arbiter.begin_step()
        skipped = arbiter.next()
        assert skipped is not None and skipped.tenant == "a"
        arbiter.dequeue(skipped)  # as vLLM does with a request that it skips
        borrowing = arbiter.next()
        assert borrowing is not None and borrowing.tenant == "b"
        arbiter.start(borrowing, [engine.pool.pop() for _ in range(2)], 2)
        arbiter.dequeue(borrowing)
        arbiter.requeue(skipped)
        arbiter.end_step(tokens_left=0)
        assert arbiter.counters.starved_steps == starved
        engine.preempt(borrowing.request_id)


# Room


def test_nothing_is_chosen_without_a_free_slot() -> None:
    engine = SimEngine(Capacity(kv_blocks=60, block_size_tokens=4, max_num_seqs=1))
    assert engine.arbiter.next() is None and not engine.arbiter.has_room
    for _ in range(2):
        engine.add("a", PLAIN, 8, 5)
    assert engine.arbiter.has_room
    engine.step()
    assert engine.arbiter.next() is None and not engine.arbiter.has_room
    engine._free("a-0")
    assert engine.arbiter.next() is engine.entries["a-1"], "as soon as one has ended"


def test_what_has_started_counts_at_once() -> None:
    engine = SimEngine(CAPACITY)
    first, second = (
        engine.add(t, TenantSettings(kv_guarantee=0.1), 8, 5) for t in ("a", "b")
    )  # one slot each
    assert engine.arbiter.next() is engine.entries[first]
    engine.arbiter.start(engine.entries[first], [engine.pool.pop() for _ in range(2)], 2)
    assert engine.arbiter.next() is engine.entries[second], "vLLM takes the first from the queue only later"


# LoRA turns


def test_what_waits_for_another_reason_takes_nobodys_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SimEngine(Capacity(kv_blocks=60, block_size_tokens=4, max_num_seqs=1), max_loras=1)
    engine.add("a", PLAIN, 4, 100, 1)
    engine.step()
    engine.add("b", PLAIN, 4, 5, 1)  # its adapter runs; it waits for a sequence slot
    engine.add("c", PLAIN, 4, 5, 0)  # the base model
    unready = engine.add("d", PLAIN, 4, 5, 2)
    monkeypatch.setattr(engine, "is_ready", lambda item: item.name != unready)
    engine.now_s += 10
    engine.step()
    engine.now_s += 10
    engine.step()
    assert engine.preemptions == []


def test_a_free_lora_slot_is_reserved_for_nobody() -> None:
    engine = SimEngine(Capacity(kv_blocks=60, block_size_tokens=4, max_num_seqs=2), max_loras=2)
    engine.add("a", PLAIN, 4, 100, 1)
    engine.add("a", PLAIN, 4, 4, 1)
    engine.step()
    engine.add("b", PLAIN, 4, 5, 2)  # one LoRA slot is free; it waits for a sequence slot
    for _ in range(2):
        engine.step()
        engine.now_s += 10
    last = engine.add("c", PLAIN, 4, 5, 3)
    charge(engine, "b", 100)
    engine.step()
    assert engine.step() == [last], "the least served, though b's adapter has waited longer"


def test_what_is_preempted_for_a_turn_starts_in_a_later_step_even_if_a_slot_becomes_free() -> None:
    engine = SimEngine(CAPACITY, max_loras=2)
    turned = engine.add("a", PLAIN, 4, 100, 1)
    engine.step()
    large = engine.add("b", PLAIN, 160, 60, 3)
    engine.step()
    engine.add("c", PLAIN, 4, 5, 2)
    engine.step()
    engine.now_s += 5  # c's turn
    guaranteed = engine.add("d", TenantSettings(kv_guarantee=0.5), 96, 5)
    started = engine.step()
    assert engine.preemptions == [turned, large]
    assert started[0] == guaranteed and turned not in started
    assert turned in engine.step(), "there is room for it"


# What a choice may cost


@pytest.fixture
def counted() -> Engine:
    return Engine()


def waiting(counted: Engine, share: Share, tenants: str, running_tenant: str = "running") -> Arbiter:
    arbiter = Arbiter(Capacity(kv_blocks=100, block_size_tokens=16, max_num_seqs=10), counted)
    running = Entry("running", running_tenant, share, 0, 0, Item(1, 1))
    arbiter.enqueue(running)
    arbiter.start(running, [1], 1)
    arbiter.dequeue(running)
    for i, tenant in enumerate(tenants, 1):
        arbiter.enqueue(Entry(f"r{i}", tenant, share, 0, i, Item(1, 1)))
    arbiter.end_step(tokens_left=1)
    return arbiter


@pytest.mark.parametrize(
    ("tenants", "running_tenant", "read"), [("aaa", "a", 0), ("aab", "a", 1), ("aab", "c", 0)]
)
@pytest.mark.parametrize("share", [Share(), Share(guarantee=0.2)])
def test_the_progress_of_running_requests_is_read_only_to_compare_their_tenants(
    counted: Engine, share: Share, tenants: str, running_tenant: str, read: int
) -> None:
    arbiter = waiting(counted, share, tenants, running_tenant)
    counted.asked_progress = 0
    arbiter.begin_step()
    assert arbiter.next() is not None
    assert counted.asked_progress == read


def test_no_more_waiting_requests_are_looked_at_than_a_guarantee_has_slots(counted: Engine) -> None:
    arbiter = waiting(counted, Share(guarantee=0.3), "a" * 50)
    arbiter.begin_step()
    assert counted.asked_ready == 3
