"""The background class: it takes what all others leave, and is preempted first."""

from __future__ import annotations

import pytest
from example_counts import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters.tenant_settings import TenantSettings
from server.fairness.kv_blocks.preemption import preemption_order
from server.fairness.shares import Capacity, is_background
from tests.unit.server.fairness.simulation import SimEngine

#: One of its 32 slots in 16 is for the background beside foreground requests.
CAPACITY = Capacity(kv_blocks=400, block_size_tokens=4, max_num_seqs=32)
PLAIN = TenantSettings()
LONG = 60


def add(
    engine: SimEngine, count: int, *, background: bool = False, adapter: int = 0, prompt: int = 4
) -> None:
    for _ in range(count):
        engine.add("acme", PLAIN, prompt, LONG, adapter, background=background)


def counts(engine: SimEngine) -> tuple[int, int]:
    """Running requests: foreground, background."""
    running = [is_background(allocation.tenant) for allocation in engine.running()]
    return running.count(False), running.count(True)


def test_alone_it_fills_the_engine() -> None:
    engine = SimEngine(CAPACITY)
    add(engine, 40, background=True)
    engine.step()
    assert counts(engine) == (0, 32)
    assert engine.arbiter.background.prompt_cap_tokens == 0


def test_beside_a_running_foreground_it_holds_one_slot_in_sixteen() -> None:
    engine = SimEngine(CAPACITY)
    add(engine, 1)
    engine.step()
    add(engine, 40, background=True)
    engine.step()
    assert counts(engine) == (1, 2)
    assert engine.arbiter.background.prompt_cap_tokens == 64, "and computes its prompts a little at a time"


def test_a_foreground_request_preempts_all_above_that_and_those_in_their_prompt() -> None:
    engine = SimEngine(CAPACITY)
    add(engine, 32, background=True)
    engine.step()
    add(engine, 1)
    engine.step()
    assert counts(engine) == (1, 0), "it lacked a slot"
    assert engine.arbiter.counters.preempted_for_foreground == 32
    engine.step()
    assert counts(engine) == (1, 2), "and goes on where it left room"
    oldest = min(engine.entries.values(), key=lambda entry: entry.arrival).request_id
    assert oldest in {allocation.request_id for allocation in engine.running()}, "the oldest first"


def test_while_one_foreground_request_lacks_room_it_holds_nothing() -> None:
    engine = SimEngine(CAPACITY)
    add(engine, 32, background=True)
    engine.step()
    add(engine, 40)
    for _ in range(5):
        engine.step()
        assert counts(engine) == (32, 0)


def test_it_does_not_start_in_a_step_in_which_a_foreground_request_does() -> None:
    engine = SimEngine(CAPACITY)
    add(engine, 1)
    add(engine, 3, background=True)
    assert engine.step() == ["acme-0"]
    assert len(engine.step()) == 2


def test_blocks_that_a_foreground_request_lacks_are_taken_from_it() -> None:
    engine = SimEngine(Capacity(kv_blocks=60, block_size_tokens=4, max_num_seqs=32))
    add(engine, 1, background=True, prompt=200)
    engine.step()
    add(engine, 1, prompt=160)
    assert engine.step() == ["acme-1"]
    assert counts(engine) == (1, 0)


def slots_beside(engine: SimEngine) -> int:
    """How many slots the background may hold in the step that begins now: two, or none where others lack room."""
    add(engine, 1, background=True)
    engine.arbiter.begin_step()
    assert not engine.arbiter.background.is_alone
    return engine.arbiter.background.slots


def held_blocks(engine: SimEngine) -> int:
    return engine.capacity.kv_blocks - engine.free_blocks()


@pytest.mark.parametrize(("all_slots", "slots"), [(8, 1), (32, 2), (40, 2)])
def test_one_slot_in_sixteen_is_a_whole_number_and_at_least_one(all_slots: int, slots: int) -> None:
    engine = SimEngine(Capacity(kv_blocks=400, block_size_tokens=4, max_num_seqs=all_slots))
    add(engine, 1)
    engine.step()
    assert slots_beside(engine) == slots


@pytest.mark.parametrize(("waiting", "slots"), [(2, 2), (3, 0)])
def test_it_holds_nothing_only_while_more_wait_than_there_are_free_slots(waiting: int, slots: int) -> None:
    engine = SimEngine(CAPACITY)
    add(engine, 30)
    engine.step()
    add(engine, waiting)
    assert slots_beside(engine) == slots


@pytest.mark.parametrize(("spare_blocks", "slots"), [(0, 2), (-1, 0)])
def test_it_holds_nothing_only_while_those_that_wait_need_more_blocks_than_are_free(
    spare_blocks: int, slots: int
) -> None:
    """Two tenants need 5 blocks each; what a running request still takes is not free."""
    engine = SimEngine(Capacity(kv_blocks=22 + spare_blocks, block_size_tokens=4, max_num_seqs=32))
    engine.add("globex", PLAIN, 44, LONG)
    engine.step()
    assert held_blocks(engine) == 11 and [engine.growth(a) for a in engine.running()] == [1]
    for tenant in ("acme", "initech"):
        engine.add(tenant, PLAIN, 20, LONG)
    assert slots_beside(engine) == slots


def test_a_tenant_above_its_limit_does_not_hide_another_that_lacks_room() -> None:
    engine = SimEngine(Capacity(kv_blocks=40, block_size_tokens=4, max_num_seqs=32))
    limited = TenantSettings(kv_limit=0.25)
    for _ in range(2):
        engine.add("acme", limited, 36, LONG)
    engine.step()
    assert len(engine.running()) == 1, "the second would exceed the limit"
    engine.add("globex", PLAIN, 36 * 4, LONG)
    assert slots_beside(engine) == 0


def test_a_tenant_above_its_limit_lacks_no_room() -> None:
    engine = SimEngine(Capacity(kv_blocks=40, block_size_tokens=4, max_num_seqs=32))
    for _ in range(2):
        engine.add("acme", TenantSettings(kv_limit=0.25), 36, LONG)
    engine.step()
    assert slots_beside(engine) == 2


def test_a_request_that_is_not_ready_lacks_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SimEngine(CAPACITY)
    add(engine, 32)
    engine.step()
    add(engine, 1)
    monkeypatch.setattr(engine, "is_ready", lambda item: False)
    assert slots_beside(engine) == 2


def test_it_holds_nothing_while_one_of_a_tenants_adapters_lacks_a_slot() -> None:
    engine = SimEngine(CAPACITY, max_loras=1)
    add(engine, 1, adapter=1)
    engine.step()
    add(engine, 1, adapter=1)
    assert slots_beside(engine) == 2
    add(engine, 1, adapter=2)
    engine.arbiter.begin_step()
    assert engine.arbiter.background.slots == 0


def test_it_gives_up_its_adapters_slot_where_two_others_start_in_one_step() -> None:
    """Each of them alone would find the free slot; both together need the one that the background holds."""
    engine = SimEngine(CAPACITY, max_loras=2)
    add(engine, 1, background=True, adapter=3)
    engine.step()
    add(engine, 1, adapter=1)
    add(engine, 1, adapter=2)
    assert engine.step() == ["acme-1", "acme-2"]


def test_a_request_is_in_its_prompt_until_it_has_a_token() -> None:
    engine = SimEngine(CAPACITY)
    add(engine, 1, background=True)
    (started,) = engine.schedule()
    assert engine.arbiter.charges.is_in_prompt(started)
    engine.compute()
    assert not engine.arbiter.charges.is_in_prompt(started)


def test_where_blocks_run_out_it_is_preempted_first() -> None:
    engine = SimEngine(CAPACITY)
    add(engine, 1, prompt=200)
    engine.step()
    add(engine, 1, background=True)
    engine.step()
    assert preemption_order(engine.arbiter.accounting) == ["acme-1", "acme-0"]


def test_a_lora_slot_goes_to_the_foreground_at_once_and_is_not_taken_back() -> None:
    engine = SimEngine(CAPACITY, max_loras=1)
    add(engine, 2, background=True, adapter=1)
    engine.step()
    add(engine, 1, adapter=2)
    assert engine.step() == ["acme-2"], "without waiting for a turn"
    for _ in range(LONG - 2):  # for longer than a turn of the LoRA slots
        engine.step()
        assert counts(engine) == (1, 0)
    assert engine.arbiter.counters.preempted_for_adapter == 0
    while len(engine.finished) < 3:
        engine.step()


def test_alone_its_adapters_take_turns() -> None:
    engine = SimEngine(CAPACITY, max_loras=1, step_s=0.2)
    add(engine, 1, background=True, adapter=1)
    add(engine, 1, background=True, adapter=2)
    for _ in range(LONG):
        engine.step()
    assert engine.arbiter.counters.preempted_for_adapter > 0
    assert set(engine.first_started_step) == {"acme-0", "acme-1"}


def test_it_earns_the_tenant_no_debt_and_no_credit() -> None:
    engine = SimEngine(CAPACITY)
    add(engine, 32, background=True)
    for _ in range(20):
        engine.step()
    counters = engine.arbiter.charges.virtual_counters
    assert counters.of("acme") == 0
    assert counters.of("acme/background") > 0


@pytest.mark.parametrize("guarantee", [0.0, 0.5])
def test_it_has_no_part_in_its_tenants_guarantee(guarantee: float) -> None:
    engine = SimEngine(CAPACITY)
    owed = TenantSettings(kv_guarantee=guarantee)
    for _ in range(32):
        engine.add("acme", owed, 4, LONG)
    engine.step()
    for _ in range(4):
        engine.add("acme", owed, 4, LONG, background=True)
    engine.step()
    assert counts(engine) == (32, 0)


ARRIVALS = st.lists(
    st.tuples(st.integers(0, 4), st.booleans(), st.integers(1, 60), st.integers(1, 20), st.integers(0, 3)),
    min_size=5,
    max_size=60,
)


@settings(max_examples=examples(100), deadline=None)
@example(
    [(0, True, 1, 2, 3), (1, True, 1, 1, 0), (0, False, 1, 1, 0), (0, False, 1, 1, 1), (0, False, 1, 1, 2)],
    True,
)
@given(ARRIVALS, st.booleans())
def test_every_request_ends_and_the_foreground_is_served_as_if_alone(
    arrivals: list[tuple[int, bool, int, int, int]], with_adapters: bool
) -> None:
    """The same foreground requests start in the same steps, with and without background ones beside them."""
    starts = []
    for with_background in (True, False):
        engine = SimEngine(
            Capacity(kv_blocks=200, block_size_tokens=4, max_num_seqs=8),
            max_loras=2 if with_adapters else None,
        )
        foreground, todo = {}, list(enumerate(arrivals))
        while todo or len(engine.finished) < len(engine.jobs):
            while todo:
                number, (pause, background, prompt, generate, adapter) = todo.pop(0)
                if with_background or not background:
                    name = engine.add(
                        "acme", PLAIN, prompt, generate, adapter * with_adapters, background=background
                    )
                    if not background:
                        foreground[number] = name
                if pause:
                    break
            engine.step()
        starts.append({number: engine.first_started_step[name] for number, name in foreground.items()})
    assert starts[0] == starts[1]
