"""What a tenant holds, and what still fits its guarantee and its limit."""

from __future__ import annotations

import pytest
from manual_clock import ManualClock

from server.fairness.kv_blocks.allocations import Allocation
from server.fairness.kv_blocks.block_accounting import BlockAccounting
from server.fairness.shares import Capacity, Share

CAPACITY = Capacity(kv_blocks=100, block_size_tokens=16, max_num_seqs=10)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(50.0)


@pytest.fixture
def accounting(clock: ManualClock) -> BlockAccounting:
    return BlockAccounting(CAPACITY, clock)


def run(
    accounting: BlockAccounting,
    name: str,
    blocks: range,
    *,
    share: Share | None = None,
    committed: int = 0,
    adapter: int = 0,
) -> Allocation:
    allocation = Allocation(
        name, "acme", share or (accounting.of("acme").share if accounting.tenants() else Share()), 1, adapter
    )
    allocation.committed_blocks = committed
    accounting.open(allocation)
    accounting.extend(allocation, blocks)
    return allocation


def test_a_shared_block_counts_once_until_its_last_user_ends(accounting: BlockAccounting) -> None:
    first = run(accounting, "first", range(4))
    run(accounting, "second", range(2, 7))
    held = accounting.of("acme")
    assert (held.blocks, held.slots, held.freed_by(first)) == (7, 2, 2)
    assert accounting.close("first") is first
    assert (held.blocks, held.slots) == (5, 1)
    assert accounting.active() == [("acme", held)]
    assert accounting.close("second") is not None
    assert (held.blocks, held.slots) == (0, 0)
    assert accounting.active() == []
    assert accounting.close("second") is None
    assert accounting.tenants() == ["acme"]


def test_a_block_of_three_requests_stays_until_the_last_ends(accounting: BlockAccounting) -> None:
    requests = [run(accounting, name, range(2), share=Share(limit=0.5)) for name in ("a", "b", "c")]
    held = accounting.of("acme")
    assert held.share == Share(limit=0.5), "the first request brings it"
    assert accounting.allocation("b") is requests[1] and accounting.allocation("d") is None
    for name, blocks in (("a", 2), ("c", 2), ("b", 0)):
        assert held.freed_by(requests[1]) == (2 if name == "b" else 0)
        accounting.close(name)
        assert held.blocks == blocks


def test_the_newest_is_preempted_first(accounting: BlockAccounting) -> None:
    for arrival in (2, 3, 1):
        accounting.open(Allocation(str(arrival), "acme", Share(), arrival, 0))
    assert [a.arrival for a in accounting.of("acme").newest_first()] == [3, 2, 1]


def test_blocks_of_a_prompt_are_pending_until_they_are_allocated(accounting: BlockAccounting) -> None:
    prompt = run(accounting, "prompt", range(2), committed=5)
    other = run(accounting, "other", range(10, 13), committed=4)
    held = accounting.of("acme")
    assert (prompt.pending_blocks, other.pending_blocks) == (3, 1)
    assert (held.pending_blocks, held.claimed_blocks, accounting.pending_blocks) == (4, 9, 4)
    accounting.extend(prompt, range(20, 24))
    assert (held.pending_blocks, held.claimed_blocks) == (1, 10)
    accounting.close("other")
    assert (held.pending_blocks, held.claimed_blocks) == (0, 6)


def test_block_seconds_by_tenant_and_adapter(clock: ManualClock, accounting: BlockAccounting) -> None:
    """A shared block counts once for the tenant, and for each request by adapter."""
    one = run(accounting, "one", range(4), adapter=7)
    clock.now_s += 10
    run(accounting, "two", range(3, 5), adapter=8)
    clock.now_s += 5
    accounting.extend(one, [9])
    clock.now_s += 1
    assert accounting.block_seconds("acme") == (
        40 + 5 * 5 + 6,
        {7: 4 * 10 + 4 * 5 + 5, 8: 2 * 6},
    )
    accounting.close("two")
    clock.now_s += 2
    run(accounting, "three", range(20, 21), adapter=7)
    clock.now_s += 1
    assert accounting.block_seconds("acme") == (71 + 5 * 2 + 6, {7: 65 + 5 * 3 + 1, 8: 12})
    assert accounting.block_seconds("unknown") == (0, {})


def test_a_guarantee_is_of_blocks_and_of_slots(accounting: BlockAccounting) -> None:
    accounting.set_share("acme", Share(guarantee=0.2))
    assert accounting.fits_guarantee("acme", 20)
    assert not accounting.fits_guarantee("acme", 21)
    run(accounting, "one", range(4), committed=6)
    assert accounting.fits_guarantee("acme", 14)
    assert not accounting.fits_guarantee("acme", 15)
    held = accounting.of("acme")
    assert (accounting.excess_blocks(held), accounting.excess_slots(held)) == (4 - 20, 1 - 2)
    run(accounting, "two", range(10, 11))
    assert not accounting.fits_guarantee("acme", 0), "both slots are in use"
    accounting.set_share("acme", Share())
    assert not accounting.fits_guarantee("acme", 0)


def test_a_limit_keeps_a_block_for_each_sequence(accounting: BlockAccounting) -> None:
    limited = Share(limit=0.2)
    accounting.set_share("acme", limited)
    run(accounting, "one", range(8), committed=10)
    assert accounting.fits_limit("acme", limited, 8)
    assert not accounting.fits_limit("acme", limited, 9)
    assert not accounting.fits_limit("acme", Share(), 9), "only the single request may use its own stamp's"
    run(accounting, "two", range(10, 11))
    assert not accounting.fits_limit("acme", limited, 0), "both slots are in use"
    accounting.set_share("acme", Share())
    assert accounting.fits_limit("acme", limited, 1000)


@pytest.mark.parametrize(("own", "most"), [(0.2, 20), (0.1, 20), (0.3, 30)])
def test_a_single_request_may_use_the_limit_that_it_was_admitted_under(
    accounting: BlockAccounting, own: float, most: int
) -> None:
    accounting.set_share("acme", Share(limit=0.2))
    assert accounting.fits_limit("acme", Share(limit=own), most)
    assert not accounting.fits_limit("acme", Share(limit=own), most + 1)
    run(accounting, "one", range(most), share=Share(limit=own))
    assert accounting.violations() == 0
    accounting.extend(next(accounting.allocations()), [1000])
    assert accounting.violations() == 1


@pytest.mark.parametrize(
    ("sizes", "growth", "exceeds"),
    [
        ((14, 14), 9, False),  # each sequence takes at most one block beyond its claim
        ((15, 14), 0, False),
        ((14, 15), 1, True),
        ((40,), 1, False),
        ((1, 1, 1), 1, False),
        ((1, 1, 1, 1), 0, True),
    ],
)
def test_the_next_step_must_not_exceed_a_limit(
    accounting: BlockAccounting, sizes: tuple[int, ...], growth: int, exceeds: bool
) -> None:
    accounting.set_share("acme", Share(limit=0.3))
    for start, size in enumerate(sizes):
        run(accounting, str(start), range(start * 100, start * 100 + size))
    held = accounting.of("acme")
    assert accounting.limited() == [("acme", held)]
    assert accounting.exceeds_limit(held, lambda _: growth) is exceeds
    accounting.set_share("acme", Share())
    assert accounting.limited() == []
    assert not accounting.exceeds_limit(held, lambda _: growth)


def test_what_a_prompt_has_still_to_take_counts_to_the_limit(accounting: BlockAccounting) -> None:
    accounting.set_share("acme", Share(limit=0.3))
    run(accounting, "one", range(10), committed=20)
    run(accounting, "two", range(100, 109))
    held = accounting.of("acme")
    assert accounting.exceeds_limit(held, lambda a: 11 if a.request_id == "one" else 1)
    assert not accounting.exceeds_limit(held, lambda a: 10 if a.request_id == "one" else 1)


@pytest.mark.parametrize(("blocks", "slots", "violations"), [(15, 2, 0), (16, 2, 1), (1, 3, 0), (1, 4, 1)])
def test_a_tenant_above_its_limit_is_a_violation(
    accounting: BlockAccounting, blocks: int, slots: int, violations: int
) -> None:
    accounting.set_share("acme", Share(limit=0.3))
    for slot in range(slots):
        start = slot * 100
        run(accounting, str(slot), range(start, start + (blocks if slot == 0 else 15 if slots == 2 else 1)))
    assert accounting.violations() == violations
    accounting.set_share("acme", Share())
    assert accounting.violations() == 0
