"""Which requests are preempted for a tenant below its guarantee, and in which order when blocks run out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest

from server.fairness.kv_blocks.allocations import Allocation
from server.fairness.kv_blocks.block_accounting import BlockAccounting
from server.fairness.kv_blocks.preemption import plan_preemption, preemption_order
from server.fairness.shares import Capacity, Share
from server.fairness.waiting_queue import Entry

TENTH, FIFTH, NOTHING = Share(guarantee=0.1), Share(guarantee=0.2), Share()


@dataclass
class Engine:
    """Its free blocks and slots; a waiting item is its number of blocks. Running requests are named by arrival."""

    blocks: int = 0
    slots: int = 0
    grows: dict[str, int] = field(default_factory=dict)
    accounting: BlockAccounting = field(
        default_factory=lambda: BlockAccounting(
            Capacity(kv_blocks=100, block_size_tokens=16, max_num_seqs=10)
        )
    )
    _ids: Iterator[int] = field(default_factory=count)
    _arrivals: Iterator[int] = field(default_factory=lambda: count(1))

    def free_blocks(self) -> int:
        return self.blocks

    def free_slots(self) -> int:
        return self.slots

    def new_blocks(self, item: int) -> int:
        return item

    def growth(self, allocation: Allocation) -> int:
        return self.grows.get(allocation.request_id, 0)

    def run(self, tenant: str, share: Share, *sizes: int, shared: int = 0, pending: int = 0) -> None:
        """Running requests with so many blocks each, of which `shared` are the same ones."""
        common = [next(self._ids) for _ in range(shared)]
        self.accounting.set_share(tenant, share)
        for size in sizes:
            arrival = next(self._arrivals)
            allocation = Allocation(str(arrival), tenant, share, arrival, 0)
            allocation.committed_blocks = size + pending
            self.accounting.open(allocation)
            self.accounting.extend(allocation, common + [next(self._ids) for _ in range(size - shared)])

    def plan(self, *waiting: tuple[str, Share, list[int]]) -> tuple[list[str], list[str]]:
        """Victims and starting requests; a waiting request is named by its tenant and its blocks."""
        entries = []
        for tenant, share, sizes in waiting:
            self.accounting.set_share(tenant, share)
            entries.append([Entry(f"{tenant}{size}", tenant, share, 0, 100, size) for size in sizes])
        victims, starting = plan_preemption(entries, self.accounting, self)
        return [v.request_id for v in victims], [e.request_id for e in starting]


def test_nobody_waits() -> None:
    assert Engine().plan() == ([], [])


def test_what_fits_preempts_nobody() -> None:
    engine = Engine(blocks=5, slots=1)
    engine.run("a", NOTHING, 50, 40)
    assert engine.plan(("w", FIFTH, [5])) == ([], ["w5"])


@pytest.mark.parametrize(
    ("blocks", "slots", "victim"), [(50, 0, "3"), (1, 1, "5"), (1, 0, "3")], ids=["slots", "blocks", "both"]
)
def test_the_victim_is_the_newest_of_the_tenant_furthest_above_in_what_is_short(
    blocks: int, slots: int, victim: str
) -> None:
    engine = Engine(blocks, slots)
    engine.run("many", NOTHING, 3, 3, 3)
    engine.run("large", NOTHING, 30, 30)
    assert engine.plan(("w", FIFTH, [4])) == ([victim], ["w4"])


def test_each_victim_brings_its_tenant_nearer_to_its_guarantee() -> None:
    """Above by 3 and 2 slots; among equals the later name loses."""
    engine = Engine(blocks=50)
    engine.run("a", TENTH, 1, 1, 1, 1)  # 1 … 4
    engine.run("b", NOTHING, 1, 1)  # 5, 6
    assert engine.plan(("w", Share(guarantee=0.4), [1, 2, 3, 4])) == (
        ["4", "6", "3", "5"],
        ["w1", "w2", "w3", "w4"],
    )


def test_one_slot_above_the_guarantee_is_enough() -> None:
    engine = Engine(blocks=50)
    engine.run("a", FIFTH, 1, 1, 1)
    assert engine.plan(("w", FIFTH, [1, 2])) == (["3"], ["w1"])


def test_blocks_are_taken_only_from_above_the_guarantee() -> None:
    engine = Engine(slots=5)
    engine.run("a", FIFTH, 12, 9)  # 21 of 20
    engine.run("b", FIFTH, 10, 10)  # 20 of 20
    assert engine.plan(("w", FIFTH, [9])) == (["2"], ["w9"])
    assert engine.plan(("w", FIFTH, [10])) == ([], [])


def test_blocks_that_others_share_are_not_freed() -> None:
    engine = Engine(slots=5)
    engine.run("a", NOTHING, 6, 6, shared=4)
    assert engine.plan(("w", FIFTH, [2])) == (["2"], ["w2"])
    assert engine.plan(("w", FIFTH, [4])) == (["2", "1"], ["w4"])
    assert engine.plan(("w", FIFTH, [5])) == ([], [])


def test_running_requests_take_their_growth_first_and_a_victim_does_not() -> None:
    engine = Engine(blocks=10, slots=5, grows={"1": 2, "2": 3})
    engine.run("a", NOTHING, 4, 4)
    assert engine.plan(("w", FIFTH, [5])) == ([], ["w5"])
    assert engine.plan(("w", FIFTH, [6])) == (["2"], ["w6"])
    assert engine.plan(("w", FIFTH, [12])) == (["2"], ["w12"])
    assert engine.plan(("w", FIFTH, [13])) == (["2", "1"], ["w13"])


def test_what_starts_takes_its_blocks_and_slot_from_the_next() -> None:
    engine = Engine(blocks=10, slots=2)
    engine.run("a", NOTHING, 3, 3, 3)
    assert engine.plan(("w", FIFTH, [6, 4])) == ([], ["w6", "w4"])
    assert engine.plan(("w", FIFTH, [6, 5])) == (["3"], ["w6", "w5"])
    engine.slots = 1
    assert engine.plan(("w", FIFTH, [6, 4])) == (["3"], ["w6", "w4"])


def test_a_request_without_room_preempts_nobody_and_ends_the_plan() -> None:
    engine = Engine(blocks=0, slots=5)
    engine.run("a", NOTHING, 5, 5)
    assert engine.plan(("w", FIFTH, [4, 11]), ("v", FIFTH, [1])) == (["2"], ["w4"])
    assert engine.plan(("w", FIFTH, [4]), ("v", FIFTH, [1])) == (["2"], ["w4", "v1"])


def test_a_tenant_gets_no_more_than_its_guarantee() -> None:
    engine = Engine(blocks=50, slots=9)
    assert engine.plan(("w", FIFTH, [5, 6, 7])) == ([], ["w5", "w6"]), "two slots"
    assert engine.plan(("w", FIFTH, [15, 5])) == ([], ["w15", "w5"]), "20 blocks"
    third = Share(guarantee=0.3)
    assert engine.plan(("x", third, [12, 12, 12]), ("v", FIFTH, [])) == ([], ["x12", "x12"])
    assert engine.plan(("w", FIFTH, [15, 6]), ("v", FIFTH, [1])) == ([], ["w15", "v1"])
    engine.run("w", FIFTH, 10)
    assert engine.plan(("w", FIFTH, [5, 5])) == ([], ["w5"]), "one slot is in use"
    assert engine.plan(("w", FIFTH, [10])) == ([], ["w10"])
    assert engine.plan(("w", FIFTH, [11])) == ([], [])


@pytest.mark.parametrize(("pending", "grows", "room"), [(0, 3, 7), (2, 3, 7), (3, 1, 7), (2, 2, 8)])
def test_a_tenants_own_growth_counts_to_its_guarantee(pending: int, grows: int, room: int) -> None:
    engine = Engine(blocks=50, slots=9, grows={"1": grows})
    engine.run("w", FIFTH, 10, pending=pending)
    assert engine.plan(("w", FIFTH, [room])) == ([], [f"w{room}"])
    assert engine.plan(("w", FIFTH, [room + 1])) == ([], [])


def test_when_blocks_run_out_the_newest_of_the_furthest_above_goes_first() -> None:
    engine = Engine()
    engine.run("a", TENTH, 8, 6)  # 4 above
    engine.run("b", NOTHING, 3, 2)  # 5 above
    engine.run("c", FIFTH, 16, 2)  # 2 below
    assert preemption_order(engine.accounting) == ["4", "2", "3", "6", "1", "5"]
    engine = Engine()
    engine.run("b", NOTHING, 3)
    engine.run("a", NOTHING, 3)
    assert preemption_order(engine.accounting) == ["1", "2"], "among equals the later name"
    assert preemption_order(Engine().accounting) == []
