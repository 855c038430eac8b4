"""A client that tries keys on several servers is slowed as on one; the database gets few and bounded writes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from manual_clock import ManualClock

from adapters.errors import RegistryUnavailable
from adapters.registry.replicas.wrong_keys import AddressFailures
from server.auth import shared_throttle as module
from server.auth.shared_throttle import MAX_REPORTED, SharedThrottle
from server.auth.throttle import (
    FREE_ATTEMPTS,
    MAX_ADDRESSES,
    MAX_DELAY_S,
    MAX_WAIT_S,
    UNTOLD_FAILURES,
    AuthThrottle,
)

ADDRESS = "192.0.2.1"


class Store:
    """The database, without forgiving."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}
        self.reporters: dict[str, set[int]] = {}
        self.writes: list[int] = []
        self.forgotten = 0
        self.is_away = False

    def of(self, server: int) -> Store:
        """The store as this server sees it."""
        seen = Store()
        seen.__dict__ = self.__dict__ | {"server": server, "root": self}
        return seen

    async def report(self, counts: Mapping[str, int]) -> dict[str, AddressFailures]:
        root: Store = self.root  # type: ignore[attr-defined]
        if root.is_away:
            raise RegistryUnavailable
        root.writes.append(len(counts))
        for address, count in counts.items():
            root.counts[address] = root.counts.get(address, 0) + count
            root.reporters.setdefault(address, set()).add(self.server)  # type: ignore[attr-defined]
        return {each: AddressFailures(root.counts[each], len(root.reporters[each])) for each in counts}

    async def recent(self, limit: int) -> dict[str, AddressFailures]:
        return {address: AddressFailures(count, 1) for address, count in self.counts.items()}

    async def forget(self) -> None:
        self.root.forgotten += 1  # type: ignore[attr-defined]


async def answers_in(seconds: float, servers: int) -> int:
    """How many wrong keys a client gets answered that tries on all servers, each as fast as it answers."""
    clock, store = ManualClock(100.0), Store()
    throttles = [AuthThrottle(clock) for _ in range(servers)]
    shared = [SharedThrottle(throttle, store.of(number)) for number, throttle in enumerate(throttles)]
    busy_until, answered = [0.0] * servers, 0
    begin = clock.now_s
    while clock.now_s < begin + seconds:
        for number, throttle in enumerate(throttles):
            if clock.now_s >= busy_until[number] and (wait_s := throttle.fail(ADDRESS)) is not None:
                busy_until[number] = clock.now_s + wait_s
                answered += 1
        clock.now_s += 0.05
        if round((clock.now_s - begin) / 0.05) % 20 == 0:
            for each in shared:
                await each.report()
    return answered


async def test_three_servers_answer_hardly_more_than_one() -> None:
    """Without the others' counts three servers answer three times as many."""
    alone, together = await answers_in(600, 1), await answers_in(600, 3)
    first_second = 3 * 15  # what may be answered before the servers know of each other
    assert together <= alone + first_second and together < 1.4 * alone


async def test_what_others_counted_slows_here_and_a_restart_does_not_forget_it() -> None:
    clock, store = ManualClock(100.0), Store()
    busy = AuthThrottle(clock)
    for _ in range(60):
        busy.fail(ADDRESS)
    await SharedThrottle(busy, store.of(0)).report()
    fresh = AuthThrottle(clock)
    assert fresh.fail(ADDRESS) == 0
    restarted = AuthThrottle(clock)
    await SharedThrottle(restarted, store.of(1)).restore()
    wait_s = restarted.fail(ADDRESS)
    assert wait_s is not None and wait_s >= MAX_DELAY_S
    for _ in range(UNTOLD_FAILURES):
        clock.now_s += 0.5  # the first one is forgiven in part
        fresh.fail(ADDRESS)
    await SharedThrottle(fresh, store.of(2)).report()
    wait_s = fresh.fail(ADDRESS)
    assert wait_s is not None and wait_s == 2 * MAX_DELAY_S


async def test_a_mistake_costs_no_write_and_many_addresses_cost_bounded_ones() -> None:
    store, throttle = Store(), AuthThrottle(ManualClock(100.0))
    shared = SharedThrottle(throttle, store.of(0))
    for number in range(2 * MAX_REPORTED):
        for _ in range(UNTOLD_FAILURES):
            throttle.fail(f"10.0.{number // 250}.{number % 250}")
    await shared.report()
    assert store.writes == []
    for number in range(2 * MAX_REPORTED):
        throttle.fail(f"10.0.{number // 250}.{number % 250}")
    for _ in range(3):
        await shared.report()
    assert store.writes == [MAX_REPORTED, MAX_REPORTED]
    assert set(store.counts.values()) == {UNTOLD_FAILURES + 1}


async def test_a_report_that_does_not_arrive_is_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FORGET_EVERY", 1)
    store, throttle = Store(), AuthThrottle(ManualClock(100.0))
    shared = SharedThrottle(throttle, store.of(0))
    for _ in range(FREE_ATTEMPTS):
        throttle.fail(ADDRESS)
    store.is_away = True
    with pytest.raises(RegistryUnavailable):
        await shared.report()
    throttle.fail(ADDRESS)
    store.is_away = False
    await shared.report()
    assert store.counts == {ADDRESS: FREE_ATTEMPTS + 1} and store.forgotten == 1


def test_with_many_servers_an_answer_still_comes() -> None:
    throttle = AuthThrottle(ManualClock(100.0))
    throttle.learn({ADDRESS: AddressFailures(100, 50)})
    assert throttle.fail(ADDRESS) == MAX_WAIT_S
    assert throttle.fail(ADDRESS) is None


async def test_what_is_forgiven_is_deleted_with_every_thirtieth_report() -> None:
    store, throttle = Store(), AuthThrottle(ManualClock(100.0))
    shared = SharedThrottle(throttle, store.of(0))
    forgotten = []
    for _ in range(60):
        for _ in range(UNTOLD_FAILURES + 1):
            throttle.fail(ADDRESS)
        await shared.report()
        forgotten.append(store.forgotten)
    assert forgotten == [0] * 29 + [1] * 30 + [2]


async def test_a_start_learns_no_more_addresses_than_are_remembered() -> None:
    store, asked = Store(), []
    seen = store.of(0)

    async def recent(limit: int) -> dict[str, AddressFailures]:
        asked.append(limit)
        return {}

    seen.recent = recent  # type: ignore[method-assign]
    await SharedThrottle(AuthThrottle(ManualClock(100.0)), seen).restore()
    assert asked == [MAX_ADDRESSES]
