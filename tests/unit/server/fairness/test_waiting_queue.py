"""The waiting queue on fixed examples; test_parts.py has arbitrary orders."""

from __future__ import annotations

import pytest

from server.fairness.shares import Share
from server.fairness.waiting_queue import Entry, WaitingQueue


def entry(arrival: int, tenant: str = "acme", adapter: int = 0) -> Entry:
    return Entry(f"{tenant}{arrival}", tenant, Share(), adapter, arrival)


def arrivals(entries: object) -> list[int]:
    return [waiting.arrival for waiting in entries]  # type: ignore[attr-defined]


@pytest.fixture
def queue() -> WaitingQueue:
    queue = WaitingQueue()
    for arrival, adapter in ((5, 1), (1, 1), (3, 1), (2, 2), (6, 2)):
        queue.put(entry(arrival, adapter=adapter))
    queue.put(entry(4, "globex"))
    return queue


def test_it_knows_who_waits(queue: WaitingQueue) -> None:
    assert len(queue) == 6
    assert arrivals(queue) == [1, 2, 3, 4, 5, 6]
    assert queue.tenants() == ["acme", "globex"]
    assert (queue.count("acme"), queue.count("globex"), queue.count("nobody")) == (5, 1, 0)
    assert queue.has_tenant("acme") and not queue.has_tenant("nobody")
    assert queue.has(entry(3)) and not queue.has(entry(4))


def test_only_adapters_with_a_slot_may_start(queue: WaitingQueue) -> None:
    assert arrivals(queue.in_order("acme", lambda _: True)) == [1, 2, 3, 5, 6]
    assert arrivals(queue.in_order("acme", lambda adapter: adapter == 2)) == [2, 6]
    assert arrivals(queue.in_order("acme", lambda _: False)) == []
    assert arrivals(queue.heads("acme")) == [1, 2]
    assert arrivals(queue.heads("globex")) == [4]


@pytest.mark.parametrize("order", [(1, 3, 5), (5, 3, 1), (3, 5, 1)])
def test_entries_leave_from_any_place(order: tuple[int, ...]) -> None:
    queue = WaitingQueue()
    entries = {arrival: entry(arrival) for arrival in (1, 3, 5)}
    other = entry(2, adapter=2)
    for waiting in (*entries.values(), other):
        queue.put(waiting)
    for gone, arrival in enumerate(order, 1):
        queue.remove(entries[arrival])
        assert arrivals(queue) == sorted({1, 2, 3, 5} - set(order[:gone]))
        assert len(queue) == 4 - gone
        assert not queue.has(entries[arrival])
    assert arrivals(queue.heads("acme")) == [2]
    queue.remove(other)
    assert not queue.has_tenant("acme") and queue.tenants() == []
