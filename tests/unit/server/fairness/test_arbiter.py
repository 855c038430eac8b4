"""The promises of the arbiter on a made-up engine; the oracles here do not use its own tallies."""

from __future__ import annotations

from itertools import pairwise

import pytest
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.tenant_settings import TenantSettings
from server.fairness.shares import Capacity, Share
from tests.unit.server.fairness.simulation import SimEngine

CAPACITY = Capacity(kv_blocks=60, block_size_tokens=4, max_num_seqs=8)
TENANTS = ["a", "b", "c", "d"]


@st.composite
def policies(draw: st.DrawFn) -> dict[str, TenantSettings]:
    raw = draw(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5]), min_size=4, max_size=4))
    total = max(sum(raw), 1.0)
    return {
        tenant: TenantSettings(
            weight=draw(st.sampled_from([1.0, 2.0])),
            kv_guarantee=guarantee / total,
            kv_limit=max(guarantee / total, draw(st.sampled_from([0.2, 0.5, 1.0]))),
        )
        for tenant, guarantee in zip(TENANTS, raw, strict=True)
    }


ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 6), st.sampled_from(TENANTS), st.integers(1, 60), st.integers(1, 40), st.integers(0, 3)
    ),
    min_size=5,
    max_size=80,
)


def fitting(policy: TenantSettings, prompt: int, generate: int) -> tuple[int, int]:
    """Shrunk to what admission would let in."""
    most = CAPACITY.limit_blocks(Share.of(policy)) * CAPACITY.block_size_tokens
    prompt = min(prompt, most - 1)
    return prompt, min(generate, most - prompt)


def held(engine: SimEngine) -> dict[str, tuple[int, int]]:
    """Tenant -> blocks and slots, from the allocations."""
    result: dict[str, tuple[int, int]] = {}
    for allocation in engine.running():
        blocks, slots = result.get(allocation.tenant, (0, 0))
        result[allocation.tenant] = (blocks + len(allocation.block_ids), slots + 1)
    return result


def waiting_heads(engine: SimEngine) -> dict[str, tuple[int, int]]:
    """Tenant -> arrival and blocks of its first waiting request."""
    heads: dict[str, tuple[int, int]] = {}
    for entry in engine.arbiter.queue:
        heads.setdefault(entry.tenant, (entry.arrival, engine.full_blocks(entry.item)))
    return heads


@settings(max_examples=examples(120), deadline=None)
@given(policies(), ARRIVALS, st.booleans())
def test_limits_guarantees_and_work_conservation(
    shares: dict[str, TenantSettings], arrivals: list[tuple[int, str, int, int, int]], with_adapters: bool
) -> None:
    engine = SimEngine(CAPACITY, max_loras=2 if with_adapters else None)
    todo = list(arrivals)
    while todo or len(engine.finished) < len(engine.jobs):
        while todo:
            pause, tenant, prompt, generate, adapter = todo.pop(0)
            prompt, generate = fitting(shares[tenant], prompt, generate)
            engine.add(tenant, shares[tenant], prompt, generate, adapter if with_adapters else 0)
            if pause:
                break
        preempted = len(engine.preemptions)
        started = engine.schedule()
        assert not set(started) & set(engine.preemptions[preempted:]), "stopped and started in one step"
        now = held(engine)
        for tenant, (blocks, slots) in now.items():
            assert blocks <= CAPACITY.limit_blocks(Share.of(shares[tenant]))
            assert slots <= CAPACITY.limit_slots(Share.of(shares[tenant]))
        assert len(engine.pool) + sum(blocks for blocks, _ in now.values()) == CAPACITY.kv_blocks
        assert engine.running() or not len(engine.arbiter.queue), "never idle while something waits"
        if not with_adapters and not engine.ran_out:
            check_nobody_is_passed_over(engine, shares, started)
        engine.compute()
    assert engine.arbiter.counters.starved_steps == 0
    assert not held(engine)


def check_nobody_is_passed_over(
    engine: SimEngine, shares: dict[str, TenantSettings], started: list[str]
) -> None:
    """A tenant waits below its guarantee only if no other tenant is above its own."""
    now = held(engine)

    def above(tenant: str) -> tuple[int, int]:
        blocks, slots = now.get(tenant, (0, 0))
        share = Share.of(shares[tenant])
        return blocks - CAPACITY.guaranteed_blocks(share), slots - CAPACITY.guaranteed_slots(share)

    owed = {
        tenant: blocks
        for tenant, (_, blocks) in waiting_heads(engine).items()
        if above(tenant)[0] + blocks <= 0 and above(tenant)[1] + 1 <= 0
    }
    for blocks in owed.values():
        assert all(max(above(name.split("-")[0])) <= 0 for name in started), "others started in its place"
        lacks_blocks, lacks_slot = blocks > len(engine.pool), engine.free_slots() < 1
        assert lacks_blocks or lacks_slot or any(b > len(engine.pool) for b in owed.values())
        if lacks_slot and not lacks_blocks:
            assert all(above(other)[1] <= 0 for other in now), "a slot could be taken back"
        if lacks_blocks and not lacks_slot:
            newest = [
                max(allocation.arrival for allocation in engine.running() if allocation.tenant == other)
                for other in now
            ]
            for allocation in engine.running():
                if allocation.arrival in newest and above(allocation.tenant)[0] > 0:
                    assert len(allocation.block_ids) + len(engine.pool) < blocks, "blocks could be taken back"


@settings(max_examples=examples(20), deadline=None)
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 40)),
    st.tuples(st.integers(1, 60), st.integers(1, 40)),
    st.sampled_from([1.0, 2.0, 3.0]),
)
def test_the_service_of_two_busy_tenants_differs_by_a_bounded_amount(
    shape_a: tuple[int, int], shape_b: tuple[int, int], weight: float
) -> None:
    engine = SimEngine(CAPACITY)
    heavy, light = TenantSettings(weight=weight), TenantSettings()
    # VTC, theorem 4.4: at most twice what a full batch can hold, or one prompt.
    bound = 2 * max(60, 2 * CAPACITY.kv_blocks * CAPACITY.block_size_tokens)
    for step in range(300):
        for tenant, policy, (prompt, generate) in (("a", heavy, shape_a), ("b", light, shape_b)):
            while engine.arbiter.queue.count(tenant) < 17:
                engine.add(tenant, policy, prompt, generate)
        engine.step()
        gap = abs(engine.service.get("a", 0) / weight - engine.service.get("b", 0))
        assert gap <= bound, step


def test_over_a_longer_time_the_gap_is_a_small_part_of_the_total() -> None:
    engine = SimEngine(Capacity(kv_blocks=400, block_size_tokens=4, max_num_seqs=16))
    for _ in range(3000):
        for tenant, (prompt, generate) in (("a", (200, 4)), ("b", (8, 60))):
            while engine.arbiter.queue.count(tenant) < 17:
                engine.add(tenant, TenantSettings(), prompt, generate)
        engine.step()
    total = sum(engine.service.values())
    assert abs(engine.service["a"] - engine.service["b"]) / total < 0.02


def test_first_come_first_served_inside_a_tenant() -> None:
    engine = SimEngine(CAPACITY)
    names = [engine.add("a", TenantSettings(), 1 + i % 7 * 8, 1 + i % 5) for i in range(40)]
    while len(engine.finished) < 40:
        engine.step()
    assert sorted(names, key=lambda n: engine.first_started_step[n]) == names


def test_the_victim_is_the_newest_request_of_the_furthest_above_its_guarantee() -> None:
    engine = SimEngine(CAPACITY)
    for i in range(4):
        engine.add("far", TenantSettings(), 24, 30)
        if i < 3:
            engine.add("near", TenantSettings(kv_guarantee=0.2), 24, 30)
    engine.step()
    engine.add("owed", TenantSettings(kv_guarantee=0.5), 48, 5)
    started = engine.step()
    assert started == ["owed-7"]
    assert engine.preemptions == ["far-6"]


def test_nobody_is_preempted_for_what_would_not_fit_even_then() -> None:
    engine = SimEngine(CAPACITY)
    engine.add("a", TenantSettings(kv_guarantee=0.6), 140, 5)
    engine.add("b", TenantSettings(), 40, 30)
    engine.step()
    engine.add("c", TenantSettings(kv_guarantee=0.3), 80, 5)  # 20 blocks of 18 guaranteed
    engine.step()
    assert engine.preemptions == []


def test_a_tenant_at_its_limit_does_not_hold_up_the_others() -> None:
    engine = SimEngine(CAPACITY)
    for _ in range(4):
        engine.add("limited", TenantSettings(kv_limit=0.2), 20, 50)
    engine.step()
    engine.add("free", TenantSettings(), 20, 5)
    assert engine.step() == ["free-4"]


def test_what_a_limit_kept_from_a_tenant_is_no_credit_against_the_others() -> None:
    engine = SimEngine(CAPACITY)
    limited, free = TenantSettings(kv_limit=0.15), TenantSettings()
    for step in range(400):
        for tenant, policy in (("limited", limited), ("free", free), ("other", free)):
            while engine.arbiter.queue.count(tenant) < 2:
                engine.add(tenant, policy, 8, 12)
        engine.step()
        if step > 100:
            counters = engine.arbiter.charges.virtual_counters
            lag = counters.of("free") - counters.of("limited")
            assert lag < 200


def test_a_step_that_breaks_a_promise_is_counted() -> None:
    """The self-check can fail: an engine that ignores the order is caught."""
    engine = SimEngine(CAPACITY)
    for _ in range(4):
        engine.add("b", TenantSettings(), 8, 5)
    engine.add("a", TenantSettings(kv_guarantee=0.5), 8, 5)
    for starved in (1, 2):
        engine.arbiter.begin_step()
        wrong = next(entry for entry in engine.arbiter.queue if entry.tenant == "b")
        engine.arbiter.start(wrong, [engine.pool.pop() for _ in range(2)], 2)
        engine.arbiter.dequeue(wrong)
        engine.arbiter.end_step(tokens_left=0)
        assert engine.arbiter.counters.starved_steps == starved


@pytest.mark.parametrize("over", ["blocks", "slots"])
def test_a_limit_that_is_exceeded_is_counted(over: str) -> None:
    engine = SimEngine(CAPACITY)
    for _ in range(3):
        engine.add("a", TenantSettings(kv_limit=0.25), 8, 5)
    for entry in list(engine.arbiter.queue):
        blocks = 6 if over == "blocks" else 1
        engine.arbiter.start(entry, [engine.pool.pop() for _ in range(blocks)], blocks)
        engine.arbiter.dequeue(entry)
    for violations in (1, 2):
        engine.arbiter.end_step(tokens_left=1)
        assert engine.arbiter.counters.limit_violations == violations


def test_an_adapter_that_waits_gets_its_turn_and_others_go_on() -> None:
    engine = SimEngine(Capacity(kv_blocks=400, block_size_tokens=4, max_num_seqs=8), max_loras=1)
    for adapter in (1, 2):
        engine.add("a", TenantSettings(), 4, 200, adapter)
    engine.add("b", TenantSettings(), 4, 200, 0)
    turns_of = []
    for _ in range(400):
        engine.step()
        turns_of += [a.adapter for a in engine.running() if a.adapter]
        if engine.finished:
            break
    changes = sum(before != after for before, after in pairwise(turns_of))
    assert changes >= 2, "they alternate"
    assert engine.arbiter.counters.preempted_for_adapter == len(engine.preemptions) == changes
    assert engine.arbiter.counters.steps == engine.steps


def test_a_lower_limit_preempts_the_newest_until_it_holds() -> None:
    engine = SimEngine(CAPACITY)
    for _ in range(4):
        engine.add("a", TenantSettings(), 8, 20)
    engine.step()
    engine.add("a", TenantSettings(kv_limit=0.25), 8, 20)  # two slots
    assert engine.step() == []
    assert engine.preemptions == ["a-3", "a-2"]
    counters = engine.arbiter.counters
    assert (counters.preempted_for_limit, counters.limit_violations) == (2, 0)
    assert (counters.preempted_for_guarantee, counters.preempted_for_adapter) == (0, 0)


def test_two_victims_of_a_guarantee_are_counted() -> None:
    engine = SimEngine(CAPACITY)
    for _ in range(4):
        engine.add("far", TenantSettings(), 48, 30)
    engine.step()
    engine.add("owed", TenantSettings(kv_guarantee=0.5), 92, 5)
    assert engine.step() == ["owed-4"]
    assert engine.arbiter.counters.preempted_for_guarantee == len(engine.preemptions) == 2
    assert engine.preemptions == ["far-3", "far-2"]


def test_block_seconds_follow_the_arbiters_clock() -> None:
    engine = SimEngine(CAPACITY, step_s=0.5)
    engine.add("a", TenantSettings(), 8, 9, adapter=3)
    engine.step()
    engine.now_s += 10
    assert engine.arbiter.accounting.block_seconds("a") == (20, {3: 20})


def test_the_least_served_tenant_starts_first_and_idle_time_is_no_credit() -> None:
    engine = SimEngine(Capacity(kv_blocks=400, block_size_tokens=4, max_num_seqs=1))
    for tenant, prompt in (("a", 40), ("b", 8), ("a", 40), ("b", 8), ("b", 8)):
        engine.add(tenant, TenantSettings(), prompt, 1)
    while len(engine.finished) < 4:
        engine.step()
    assert engine.finished == ["a-0", "b-1", "b-3", "b-4"]
    engine.add("idle", TenantSettings(), 8, 1)
    assert engine.arbiter.charges.virtual_counters.of("idle") == 42, "as much as the one that waits"
    while len(engine.finished) < 6:
        engine.step()
    engine.add("late", TenantSettings(), 8, 1)
    last = engine.finished[-1].split("-")[0]
    counters = engine.arbiter.charges.virtual_counters
    assert counters.of("late") == counters.of(last), "as much as the last that left"


@pytest.mark.parametrize(("borrows", "tokens_left", "starved"), [(False, 0, 0), (False, 1, 1), (True, 0, 1)])
def test_without_tokens_left_a_guaranteed_request_may_wait_unless_others_started(
    borrows: bool, tokens_left: int, starved: int
) -> None:
    engine = SimEngine(CAPACITY)
    arbiter = engine.arbiter
    for tenant in ("a", "c"):
        engine.add(tenant, TenantSettings(kv_guarantee=0.3), 8, 5)
    engine.add("b", TenantSettings(), 8, 5)
    arbiter.begin_step()
    chosen = arbiter.next()
    assert chosen is not None and chosen.tenant == "a"
    others = [entry for entry in arbiter.queue if entry.tenant == "b"] if borrows else []
    for started in (*others, chosen):
        arbiter.start(started, [engine.pool.pop() for _ in range(2)], 2)
        arbiter.dequeue(started)
    arbiter.end_step(tokens_left)
    assert arbiter.counters.starved_steps == starved


def test_an_adapter_whose_request_was_cancelled_waits_anew_for_its_turn() -> None:
    engine = SimEngine(Capacity(kv_blocks=400, block_size_tokens=4, max_num_seqs=8), max_loras=1)
    engine.add("a", TenantSettings(), 4, 999, 1)
    engine.step()
    for _ in range(2):
        cancelled = engine.entries[engine.add("b", TenantSettings(), 4, 9, 2)]
        engine.step()
        engine.arbiter.dequeue(cancelled)
        for _ in range(200):  # 4 s, two turns
            engine.step()
    assert engine.preemptions == []
