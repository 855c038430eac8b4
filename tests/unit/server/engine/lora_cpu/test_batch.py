"""The plan of a batch covers every adapter row once, whatever the batch looks like."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.lora_cpu.batch import FEW_ROWS, NO_SLOT, BatchPlan, Limits, Run, Zone, plan_batch

RUNS = st.lists(st.tuples(st.integers(NO_SLOT, 63), st.one_of(st.just(1), st.integers(1, 40))), max_size=40)
LIMITS = Limits(long_run_rows=16, few_runs=2)


def plan(rows: list[int]) -> BatchPlan:
    return plan_batch(np.array(rows, dtype=np.int64), LIMITS)


def slots_by_row(zone: Zone) -> dict[int, int]:
    """Read a zone back: which row of the batch meets which slot."""
    found = {}
    for offset, sorted_row in enumerate(zone.position.tolist()):
        for group in zone.groups:
            if group.start <= sorted_row < group.stop:
                assert zone.source[sorted_row] == zone.start + offset
                found[zone.start + offset] = group.slot_start + (sorted_row - group.start) // group.depth
    return found


@settings(max_examples=200, deadline=None)
@given(RUNS)
def test_each_row_meets_its_own_slot_once(runs: list[tuple[int, int]]) -> None:
    rows = [slot for slot, count in runs for _ in range(count)]
    seen: dict[int, int] = {}
    made = plan(rows)
    for block in made.blocks:
        mine = (
            dict.fromkeys(range(block.start, block.stop), block.slot)
            if isinstance(block, Run)
            else slots_by_row(block)
        )
        assert not mine.keys() & seen.keys()
        seen |= mine
    assert seen == {row: slot for row, slot in enumerate(rows) if slot != NO_SLOT}
    assert made.rows == len(rows)


@settings(max_examples=100, deadline=None)
@given(RUNS)
def test_padding_stays_in_proportion(runs: list[tuple[int, int]]) -> None:
    rows = [slot for slot, count in runs for _ in range(count)]
    for block in plan(rows).blocks:
        if isinstance(block, Zone):
            wanted = sum(row != NO_SLOT for row in rows[block.start : block.stop])
            assert len(block.source) <= 2 * wanted + 16 * len(block.groups)


@settings(max_examples=100, deadline=None)
@given(RUNS, st.integers(1, 4))
def test_positions_of_slices_name_rows_by_slot_then_slice(runs: list[tuple[int, int]], slices: int) -> None:
    rows = [slot for slot, count in runs for _ in range(count)]
    for block in plan(rows).blocks:
        if isinstance(block, Run):
            continue
        names = [("base", 0, 0)] * (len(block.source) * slices + 1)
        for group in block.groups:
            row = group.start * slices
            for slot in range(group.slot_start, group.slot_stop):
                for index in range(slices):
                    for depth in range(group.depth):
                        names[row] = (
                            "adapter",
                            (slot - group.slot_start) * group.depth + depth + group.start,
                            index,
                        )
                        row += 1
        for offset, taken in enumerate(block.positions(slices).view(-1, slices).tolist()):
            own = int(block.position[offset])
            for index, position in enumerate(taken):
                expected = ("base", 0, 0) if own == len(block.source) else ("adapter", own, index)
                assert names[position] == expected


def test_prefill_is_one_run_per_request_and_base_rows_are_skipped() -> None:
    long = LIMITS.long_run_rows
    made = plan([0] * long + [NO_SLOT] * long + [2] * (long + 5))
    assert made.blocks == (Run(0, long, 0), Run(2 * long, 3 * long + 5, 2))


def test_few_runs_are_not_sorted_but_many_or_repeated_ones_are() -> None:
    assert [type(block) for block in plan([5, 5, NO_SLOT, 5]).blocks] == [Zone]
    assert all(isinstance(block, Run) for block in plan([5] * 3 + [7] * 3).blocks)
    assert [type(block) for block in plan(list(range(LIMITS.few_runs + 1))).blocks] == [Zone]


def test_decoding_rows_beside_a_prefill_are_a_zone_of_their_own() -> None:
    made = plan([0, 1, 2, NO_SLOT, 1] + [3] * 100 + [0, 1, 2])
    assert [(block.start, block.stop) for block in made.blocks] == [(0, 5), (5, 105), (105, 108)]


def test_base_rows_alone_cost_nothing() -> None:
    assert plan([NO_SLOT] * 100).blocks == ()
    assert plan([]).blocks == ()


def test_few_rows_are_named_by_slot_and_many_are_not() -> None:
    few = plan([2, NO_SLOT, 0, 2, 1]).few
    assert few is not None and few.rows.tolist() == [2, 4, 0, 3] and few.slots.tolist() == [0, 1, 2, 2]
    turns = [row % 2 for row in range(FEW_ROWS)]
    assert plan(turns).few is not None and not plan(turns).long
    assert plan([*turns, 2]).few is None and plan([NO_SLOT]).few is None


def test_long_runs_stay_beside_the_few_rows() -> None:
    long = LIMITS.long_run_rows
    both = plan([1, *[0] * long, 2, *[NO_SLOT] * long, *[3] * long])
    assert both.few is not None and both.few.rows.tolist() == [0, long + 1]
    assert both.long == (Run(1, long + 1, 0), Run(2 * long + 2, 3 * long + 2, 3))
    assert plan([0] * long).few is None
