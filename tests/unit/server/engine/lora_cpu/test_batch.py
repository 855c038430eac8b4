"""The plan of a batch covers every adapter row once, whatever the batch looks like."""

from __future__ import annotations

import numpy as np
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.lora_cpu.batch import (
    MAX_SCATTERED_ROWS,
    NO_SLOT,
    AdapterSegment,
    BatchPlan,
    MixedSegment,
    SegmentLimits,
    plan_batch,
)

RUNS = st.lists(st.tuples(st.integers(NO_SLOT, 63), st.one_of(st.just(1), st.integers(1, 40))), max_size=40)
LIMITS = SegmentLimits(long_segment_rows=16, max_short_segments=2)


def plan(rows: list[int]) -> BatchPlan:
    return plan_batch(np.array(rows, dtype=np.int64), LIMITS)


def slots_by_row(segment: MixedSegment) -> dict[int, int]:
    """The slot of each batch row, read from a mixed segment."""
    found = {}
    for offset, sorted_row in enumerate(segment.position.tolist()):
        for group in segment.groups:
            if group.start <= sorted_row < group.stop:
                assert segment.source[sorted_row] == segment.start + offset
                found[segment.start + offset] = group.slot_start + (sorted_row - group.start) // group.depth
    return found


@settings(max_examples=examples(200), deadline=None)
@given(RUNS)
def test_each_row_gets_its_own_slot_once(runs: list[tuple[int, int]]) -> None:
    rows = [slot for slot, count in runs for _ in range(count)]
    seen: dict[int, int] = {}
    made = plan(rows)
    for segment in made.segments:
        mine = (
            dict.fromkeys(range(segment.start, segment.stop), segment.slot)
            if isinstance(segment, AdapterSegment)
            else slots_by_row(segment)
        )
        assert not mine.keys() & seen.keys()
        seen |= mine
    assert seen == {row: slot for row, slot in enumerate(rows) if slot != NO_SLOT}
    assert made.rows == len(rows)


@settings(max_examples=examples(100), deadline=None)
@given(RUNS)
def test_padding_stays_in_proportion(runs: list[tuple[int, int]]) -> None:
    rows = [slot for slot, count in runs for _ in range(count)]
    for segment in plan(rows).segments:
        if isinstance(segment, MixedSegment):
            wanted = sum(row != NO_SLOT for row in rows[segment.start : segment.stop])
            assert len(segment.source) <= 2 * wanted + 16 * len(segment.groups)


@settings(max_examples=examples(100), deadline=None)
@given(RUNS, st.integers(1, 4))
def test_positions_of_slices_order_rows_by_slot_then_slice(runs: list[tuple[int, int]], slices: int) -> None:
    rows = [slot for slot, count in runs for _ in range(count)]
    for segment in plan(rows).segments:
        if isinstance(segment, AdapterSegment):
            continue
        names = [("base", 0, 0)] * (len(segment.source) * slices + 1)
        for group in segment.groups:
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
        for offset, taken in enumerate(segment.positions(slices).view(-1, slices).tolist()):
            own = int(segment.position[offset])
            for index, position in enumerate(taken):
                expected = ("base", 0, 0) if own == len(segment.source) else ("adapter", own, index)
                assert names[position] == expected


def test_prefill_is_one_segment_per_request_and_base_rows_are_skipped() -> None:
    long = LIMITS.long_segment_rows
    made = plan([0] * long + [NO_SLOT] * long + [2] * (long + 5))
    assert made.segments == (AdapterSegment(0, long, 0), AdapterSegment(2 * long, 3 * long + 5, 2))


def test_few_short_segments_are_not_sorted_but_many_or_repeated_ones_are() -> None:
    assert [type(segment) for segment in plan([5, 5, NO_SLOT, 5]).segments] == [MixedSegment]
    assert all(isinstance(segment, AdapterSegment) for segment in plan([5] * 3 + [7] * 3).segments)
    assert [type(segment) for segment in plan(list(range(LIMITS.max_short_segments + 1))).segments] == [
        MixedSegment
    ]


def test_decoding_rows_next_to_a_prefill_form_their_own_mixed_segment() -> None:
    made = plan([0, 1, 2, NO_SLOT, 1] + [3] * 100 + [0, 1, 2])
    assert [(segment.start, segment.stop) for segment in made.segments] == [(0, 5), (5, 105), (105, 108)]


def test_base_rows_alone_cost_nothing() -> None:
    assert plan([NO_SLOT] * 100).segments == ()
    assert plan([]).segments == ()


def test_few_rows_are_scattered_rows_ordered_by_slot_and_many_are_not() -> None:
    scattered = plan([2, NO_SLOT, 0, 2, 1]).scattered
    assert (
        scattered is not None
        and scattered.rows.tolist() == [2, 4, 0, 3]
        and scattered.slots.tolist() == [0, 1, 2, 2]
    )
    turns = [row % 2 for row in range(MAX_SCATTERED_ROWS)]
    assert plan(turns).scattered is not None and not plan(turns).long
    assert plan([*turns, 2]).scattered is None and plan([NO_SLOT]).scattered is None


def test_long_segments_stay_next_to_scattered_rows() -> None:
    long = LIMITS.long_segment_rows
    both = plan([1, *[0] * long, 2, *[NO_SLOT] * long, *[3] * long])
    assert both.scattered is not None and both.scattered.rows.tolist() == [0, long + 1]
    assert both.long == (AdapterSegment(1, long + 1, 0), AdapterSegment(2 * long + 2, 3 * long + 2, 3))
    assert plan([0] * long).scattered is None
