"""Counters, prompt chunks and the queue, each by itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.fairness.prefill_cap import max_min_cap
from server.fairness.shares import Share
from server.fairness.virtual_counters import VirtualTokenCounters
from server.fairness.waiting_queue import Entry, WaitingQueue


def test_prompt_tokens_cost_one_generated_two_and_weights_divide() -> None:
    counters = VirtualTokenCounters()
    counters.charge("acme", 2.0, prompt_tokens=10, generated_tokens=4)
    assert counters.of("acme") == (10 + 2 * 4) / 2
    assert counters.of("globex") == 0


def test_who_comes_first_starts_at_zero() -> None:
    counters = VirtualTokenCounters()
    counters.charge("", 1.0, prompt_tokens=3)
    counters.lift("acme", [])
    assert (counters.of("acme"), counters.of("")) == (0, 3)


def test_idle_time_earns_no_credit() -> None:
    counters = VirtualTokenCounters()
    counters.charge("busy", 1.0, generated_tokens=100)
    counters.charge("busier", 1.0, generated_tokens=300)
    counters.lift("back", ["busy", "busier"])
    assert counters.of("back") == counters.of("busy")
    counters.charge("back", 1.0, generated_tokens=1000)
    counters.lift("back", ["busy"])
    assert counters.of("back") == 2200, "and having had more than the others is not forgiven"


def test_when_nobody_waits_the_last_that_left_is_the_measure() -> None:
    counters = VirtualTokenCounters()
    counters.charge("acme", 1.0, generated_tokens=100)
    counters.note_empty("acme")
    counters.lift("globex", [])
    assert counters.of("globex") == counters.of("acme")


@settings(deadline=None)
@given(st.lists(st.integers(0, 500), max_size=12), st.integers(0, 1000))
def test_the_water_level_is_the_largest_cap_that_fits(demands: list[int], tokens: int) -> None:
    level = max_min_cap(demands, tokens)
    if level == 0:
        assert sum(demands) <= tokens
        return
    assert sum(demands) > tokens
    assert sum(min(level + 1, demand) for demand in demands) > tokens
    if level > 1:
        assert sum(min(level, demand) for demand in demands) <= tokens


@pytest.mark.parametrize(
    ("demands", "tokens", "cap"),
    [([10, 20, 30], 32, 11), ([10, 10], 20, 0), ([10, 10], 19, 9), ([1], 0, 1), ([1, 1], -5, 1), ([], 0, 0)],
)
def test_caps_by_example(demands: list[int], tokens: int, cap: int) -> None:
    assert max_min_cap(demands, tokens) == cap


def entry(arrival: int, tenant: str = "acme", adapter: int = 0) -> Entry:
    return Entry(f"r{arrival}", tenant, Share(), adapter, arrival)


@settings(deadline=None)
@given(st.permutations(range(12)), st.data())
def test_the_line_keeps_the_order_of_arrival_however_requests_come_back(
    order: list[int], data: st.DataObject
) -> None:
    queue = WaitingQueue()
    adapters = {i: data.draw(st.integers(0, 2), label=f"adapter of {i}") for i in order}
    entries = {i: entry(i, adapter=adapters[i]) for i in order}
    for i in order:
        queue.put(entries[i])
    gone = data.draw(st.sets(st.sampled_from(range(12))), label="gone")
    for i in gone:
        queue.remove(entries[i])
    left = [i for i in range(12) if i not in gone]
    assert [e.arrival for e in queue] == left
    assert len(queue) == len(left) == queue.count("acme")
    assert queue.has_tenant("acme") == bool(left)
    if left:
        may_start = data.draw(st.sets(st.integers(0, 2)), label="adapters with a slot")
        startable = [e.arrival for e in queue.in_order("acme", may_start.__contains__)]
        assert startable == [i for i in left if adapters[i] in may_start]
        assert [e.arrival for e in queue.heads("acme")] == sorted(
            min(i for i in left if adapters[i] == a) for a in {adapters[i] for i in left}
        )
