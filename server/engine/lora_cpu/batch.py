"""Assigns the rows of a step to adapters: planned once per step, used by every layer. Leans on nothing of vLLM.

A row is never multiplied by the weights of another adapter, not even with a factor of zero: 0 x Inf is NaN, so
an adapter whose weights overflow to Inf would otherwise spoil the rows of others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

NO_SLOT = -1
"""The slot of a row that uses the base model without an adapter, as in vLLM's LoRA mappings."""

SPARE_ROWS = 16
"""A group of slots is split when its padding exceeds both this number of rows and its number of real rows."""

MAX_SCATTERED_ROWS = 64
"""Largest number of rows outside long segments that `fused_kernel` multiplies row by row (measured)."""

Slots = npt.NDArray[np.int64]
Workspace = tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]


@dataclass(frozen=True, slots=True)
class SegmentLimits:
    """When neighbouring rows of one adapter get their own product instead of being sorted (measured).

    Segments of at least `long_segment_rows` rows always do. Shorter ones do when at most `max_short_segments` of
    them stand together and no adapter occurs twice among them.
    """

    long_segment_rows: int
    max_short_segments: int


FLOAT32_LIMITS = SegmentLimits(long_segment_rows=8, max_short_segments=4)
HALF_LIMITS = SegmentLimits(long_segment_rows=32, max_short_segments=1)
"""For 16-bit weights: oneDNN needs about 25 µs to start a product, MKL in float32 less than 3 µs."""


@dataclass(frozen=True, slots=True)
class AdapterSegment:
    """Rows `start:stop` of the batch, all of the adapter in `slot`."""

    start: int
    stop: int
    slot: int


@dataclass(frozen=True, slots=True)
class SlotGroup:
    """Neighbouring slots that are multiplied together, each padded to `depth` rows.

    The group covers the sorted rows `start:stop` of its segment.
    """

    slot_start: int
    slot_stop: int
    depth: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class MixedSegment:
    """Rows `start:stop` of the batch in which adapters and base rows alternate; they are sorted by slot.

    `source` holds, for each sorted row, the index of the batch row that it copies (padding repeats one).
    `position` holds, for each row `start:stop`, the index of its sorted row; base rows get `len(source)`.
    """

    start: int
    stop: int
    groups: tuple[SlotGroup, ...]
    source: torch.Tensor
    position: torch.Tensor
    _positions: dict[int, torch.Tensor] = field(default_factory=dict)
    _workspaces: dict[tuple[int, int, torch.dtype], Workspace] = field(default_factory=dict)

    def positions(self, slices: int) -> torch.Tensor:
        """Row indices into a product of several slices: `[stop - start, slices]`, flattened.

        Such a product holds, per slot, the sorted rows of its first slice, then of its second, and so on;
        base rows get the index after the last row.
        """
        if slices == 1:
            return self.position
        found = self._positions.get(slices)
        if found is None:
            found = self._positions[slices] = torch.from_numpy(self._interleave(slices))
        return found

    def workspace(self, slices: int, height: int, dtype: torch.dtype) -> Workspace:
        """Reusable tensors: a product of several slices, each group's rows in it, and the product in batch order.

        The product's last row is zero, for the base rows. One workspace is kept per shape; all layers reuse it.
        """
        found = self._workspaces.get((slices, height, dtype))
        if found is None:
            with torch.inference_mode(False):
                product = torch.zeros(len(self.source) * slices + 1, height, dtype=dtype)
                own = torch.empty((self.stop - self.start) * slices, height, dtype=dtype)
            outputs = tuple(
                product[group.start * slices : group.stop * slices].view(-1, group.depth, height)
                for group in self.groups
            )
            found = self._workspaces[slices, height, dtype] = product, outputs, own
        return found

    def _interleave(self, slices: int) -> Slots:
        position = self.position.numpy()
        found = np.full((len(position), slices), len(self.source) * slices, dtype=np.int64)
        for group in self.groups:
            inside = (position >= group.start) & (position < group.stop)
            slot, row = np.divmod(position[inside] - group.start, group.depth)
            for index in range(slices):
                found[inside, index] = (group.start + slot * group.depth) * slices + index * group.depth + row
        return found.reshape(-1)


@dataclass(frozen=True, slots=True)
class ScatteredRows:
    """The adapter rows outside long segments: `rows[i]` uses `slots[i]`; slots ascend."""

    rows: Slots
    slots: Slots
    _kept: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    _workspaces: dict[int, tuple[int, int, int, int, int]] = field(default_factory=dict)

    def workspace(self, columns: int) -> tuple[int, int, int, int, int]:
        """The kernel's first arguments: count, addresses of `rows`, `slots` and `h`, number of columns.

        `h` (`[count, columns]`, float32) holds the result of the first product; all layers reuse it.
        """
        found = self._workspaces.get(columns)
        if found is None:
            h = self._kept.setdefault(columns, np.empty((len(self.rows), columns), np.float32))
            addresses = self.rows.ctypes.data, self.slots.ctypes.data, h.ctypes.data
            found = self._workspaces[columns] = len(self.rows), *addresses, columns
        return found


Segment = AdapterSegment | MixedSegment


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The segments that cover every adapter row of a batch of `rows` exactly once.

    `scattered` and `long` together cover the same rows in another way; `scattered` is None when there are no rows
    outside long segments or more than `MAX_SCATTERED_ROWS`.
    """

    rows: int
    segments: tuple[Segment, ...]
    scattered: ScatteredRows | None = None
    long: tuple[AdapterSegment, ...] = ()


EMPTY_PLAN = BatchPlan(0, ())


def plan_batch(slots: Slots, limits: SegmentLimits) -> BatchPlan:
    """Plan a batch from the slot of each of its rows (`NO_SLOT` for the base model)."""
    segments: list[Segment] = []
    long: list[AdapterSegment] = []
    short: list[AdapterSegment] = []
    for segment in _adapter_segments(slots):
        if segment.stop - segment.start < limits.long_segment_rows:
            short.append(segment)
            continue
        segments.extend(_short_segments(slots, short, limits.max_short_segments))
        short = []
        if segment.slot != NO_SLOT:
            segments.append(segment)
            long.append(segment)
    segments.extend(_short_segments(slots, short, limits.max_short_segments))
    return BatchPlan(len(slots), tuple(segments), _scattered_rows(slots, long), tuple(long))


def _scattered_rows(slots: Slots, long: list[AdapterSegment]) -> ScatteredRows | None:
    inside = slots != NO_SLOT
    for segment in long:
        inside[segment.start : segment.stop] = False
    rows = np.flatnonzero(inside)
    if not 0 < len(rows) <= MAX_SCATTERED_ROWS:
        return None
    rows = rows[np.argsort(slots[rows], kind="stable")]
    return ScatteredRows(rows, slots[rows])


def _adapter_segments(slots: Slots) -> Iterator[AdapterSegment]:
    if not len(slots):
        return
    bounds = [0, *(np.flatnonzero(np.diff(slots)) + 1).tolist(), len(slots)]
    for start, stop in pairwise(bounds):
        yield AdapterSegment(start, stop, int(slots[start]))


def _short_segments(
    slots: Slots, short: list[AdapterSegment], max_short_segments: int
) -> list[AdapterSegment] | list[MixedSegment]:
    adapted = [segment for segment in short if segment.slot != NO_SLOT]
    if len(adapted) <= max_short_segments and len({segment.slot for segment in adapted}) == len(adapted):
        return adapted
    return [_mixed_segment(slots, adapted[0].start, adapted[-1].stop)]


def _mixed_segment(slots: Slots, start: int, stop: int) -> MixedSegment:
    within = slots[start:stop]
    active, counts = np.unique(within[within != NO_SLOT], return_counts=True)
    groups = _group_slots(active.tolist(), counts.tolist())
    source = np.full(groups[-1].stop, start, dtype=np.int64)
    position = np.full(stop - start, len(source), dtype=np.int64)
    for group in groups:
        for slot in range(group.slot_start, group.slot_stop):
            rows = np.flatnonzero(within == slot)
            first = group.start + (slot - group.slot_start) * group.depth
            source[first : first + len(rows)] = start + rows
            position[rows] = np.arange(first, first + len(rows))
    return MixedSegment(start, stop, groups, torch.from_numpy(source), torch.from_numpy(position))


def _group_slots(active: list[int], counts: list[int]) -> tuple[SlotGroup, ...]:
    """Group ascending slots; a new group starts where padding to one depth costs more than another product."""
    groups: list[SlotGroup] = []
    first = start = 0
    for index in range(1, len(active) + 1):
        if index < len(active) and _worth_joining(active[first : index + 1], counts[first : index + 1]):
            continue
        slot_start, slot_stop, depth = active[first], active[index - 1] + 1, max(counts[first:index])
        stop = start + (slot_stop - slot_start) * depth
        groups.append(SlotGroup(slot_start, slot_stop, depth, start, stop))
        first, start = index, stop
    return tuple(groups)


def _worth_joining(slots: list[int], counts: list[int]) -> bool:
    rows = sum(counts)
    padded = (slots[-1] + 1 - slots[0]) * max(counts)
    return padded - rows <= max(SPARE_ROWS, rows)
