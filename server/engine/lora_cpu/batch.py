"""Which rows of a step meet which adapter: planned once per step, used by every layer.

A row never meets the weights of an adapter that is not its own, not even multiplied by zero: an adapter
whose weights overflow to Inf (0 x Inf is NaN) can spoil its own rows only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

NO_SLOT = -1
"""The slot of a row that wants the base model alone, as in vLLM's LoRA mappings."""

SPARE_ROWS = 16
"""A group of slots may be padded by so many rows, or by as many as it has, before it is split."""

FEW_ROWS = 64
"""Up to so many rows outside of long runs `rows` multiplies one by one (measured)."""

Slots = npt.NDArray[np.int64]
Workspace = tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Limits:
    """When rows of one adapter get products of their own instead of being sorted (measured).

    A run of `long_run_rows` always does, and so do up to `few_runs` shorter ones when no adapter comes
    twice among them.
    """

    long_run_rows: int
    few_runs: int


FLOAT32_LIMITS = Limits(long_run_rows=8, few_runs=4)
HALF_LIMITS = Limits(long_run_rows=32, few_runs=1)
"""For 16-bit weights: oneDNN needs some 25 µs to start a product, MKL in float32 less than 3."""


@dataclass(frozen=True, slots=True)
class Run:
    """Rows `start:stop` of the batch, all of the adapter in `slot`."""

    start: int
    stop: int
    slot: int


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring slots that are multiplied together: `depth` sorted rows for each of them.

    They are the zone's sorted rows `start:stop`.
    """

    slot_start: int
    slot_stop: int
    depth: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Zone:
    """Rows `start:stop` of the batch in which adapters and base rows alternate.

    `source` names, for each sorted row, the row of the batch that it copies (padding repeats one).
    `position` names, for each row `start:stop`, its sorted row; base rows get `len(source)`.
    """

    start: int
    stop: int
    groups: tuple[Group, ...]
    source: torch.Tensor
    position: torch.Tensor
    _positions: dict[int, torch.Tensor] = field(default_factory=dict)
    _workspaces: dict[tuple[int, int, torch.dtype], Workspace] = field(default_factory=dict)

    def positions(self, slices: int) -> torch.Tensor:
        """Name the rows of a product of several slices: `[stop - start, slices]`, flattened.

        Such a product holds, per slot, the sorted rows of its first slice, then of its second, and so on;
        base rows get the row after the last.
        """
        if slices == 1:
            return self.position
        found = self._positions.get(slices)
        if found is None:
            found = self._positions[slices] = torch.from_numpy(self._interleave(slices))
        return found

    def workspace(self, slices: int, height: int, dtype: torch.dtype) -> Workspace:
        """Lend a product of several slices, the rows of each group in it, and the product in batch order.

        The product's last row is zero, for the base rows. One is kept per shape: layers take turns with it.
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
class FewRows:
    """The rows with an adapter that are in no long run: `rows[i]` wants `slots[i]`, slots ascending."""

    rows: Slots
    slots: Slots
    _kept: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    _workspaces: dict[int, tuple[int, int, int, int, int]] = field(default_factory=dict)

    def workspace(self, columns: int) -> tuple[int, int, int, int, int]:
        """What is to be done, as addresses: count, `rows`, `slots`, `h` (`[count, columns]`, float32), columns.

        `h` is lent for what lies between the two products: layers take turns with it.
        """
        found = self._workspaces.get(columns)
        if found is None:
            h = self._kept.setdefault(columns, np.empty((len(self.rows), columns), np.float32))
            addresses = self.rows.ctypes.data, self.slots.ctypes.data, h.ctypes.data
            found = self._workspaces[columns] = len(self.rows), *addresses, columns
        return found


Block = Run | Zone


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The blocks that cover every adapter row of a batch of `rows` exactly once."""

    rows: int
    blocks: tuple[Block, ...]
    few: FewRows | None = None
    """What is in no long run, when it is at most `FEW_ROWS`: with `long`, another way to name the same rows."""
    long: tuple[Run, ...] = ()


EMPTY_PLAN = BatchPlan(0, ())


def plan_batch(slots: Slots, limits: Limits) -> BatchPlan:
    """Plan a batch from the slot of each of its rows (`NO_SLOT` for the base model)."""
    blocks: list[Block] = []
    long: list[Run] = []
    short: list[Run] = []
    for run in _runs(slots):
        if run.stop - run.start < limits.long_run_rows:
            short.append(run)
            continue
        blocks.extend(_short_blocks(slots, short, limits.few_runs))
        short = []
        if run.slot != NO_SLOT:
            blocks.append(run)
            long.append(run)
    blocks.extend(_short_blocks(slots, short, limits.few_runs))
    return BatchPlan(len(slots), tuple(blocks), _few_rows(slots, long), tuple(long))


def _few_rows(slots: Slots, long: list[Run]) -> FewRows | None:
    inside = slots != NO_SLOT
    for run in long:
        inside[run.start : run.stop] = False
    rows = np.flatnonzero(inside)
    if not 0 < len(rows) <= FEW_ROWS:
        return None
    rows = rows[np.argsort(slots[rows], kind="stable")]
    return FewRows(rows, slots[rows])


def _runs(slots: Slots) -> Iterator[Run]:
    if not len(slots):
        return
    bounds = [0, *(np.flatnonzero(np.diff(slots)) + 1).tolist(), len(slots)]
    for start, stop in pairwise(bounds):
        yield Run(start, stop, int(slots[start]))


def _short_blocks(slots: Slots, short: list[Run], few_runs: int) -> list[Run] | list[Zone]:
    adapted = [run for run in short if run.slot != NO_SLOT]
    if len(adapted) <= few_runs and len({run.slot for run in adapted}) == len(adapted):
        return adapted
    return [_zone(slots, adapted[0].start, adapted[-1].stop)]


def _zone(slots: Slots, start: int, stop: int) -> Zone:
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
    return Zone(start, stop, groups, torch.from_numpy(source), torch.from_numpy(position))


def _group_slots(active: list[int], counts: list[int]) -> tuple[Group, ...]:
    """Split ascending slots where padding them to one depth would cost more than another product."""
    groups: list[Group] = []
    first = start = 0
    for index in range(1, len(active) + 1):
        if index < len(active) and _worth_joining(active[first : index + 1], counts[first : index + 1]):
            continue
        slot_start, slot_stop, depth = active[first], active[index - 1] + 1, max(counts[first:index])
        stop = start + (slot_stop - slot_start) * depth
        groups.append(Group(slot_start, slot_stop, depth, start, stop))
        first, start = index, stop
    return tuple(groups)


def _worth_joining(slots: list[int], counts: list[int]) -> bool:
    rows = sum(counts)
    padded = (slots[-1] + 1 - slots[0]) * max(counts)
    return padded - rows <= max(SPARE_ROWS, rows)
