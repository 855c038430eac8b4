"""The two products of LoRA, `h = x @ A.T` and `y += h @ B.T`, for one segment of a batch.

Leans on nothing of vLLM. Between the two products, `h` holds the segment's rows in the segment's own order: batch
order in an `AdapterSegment`, sorted by slot and padded in a `MixedSegment`. `x`, `h` and the weights must share one
dtype; `y` may have another.

These functions run four times per layer and step, for products of a few microseconds, so every call and every view
matters: views of weights are cached, and a whole tensor is never sliced.
"""

from __future__ import annotations

import torch

from server.engine.lora_cpu.batch import AdapterSegment, MixedSegment, Segment, SlotGroup
from server.engine.lora_cpu.weights import PackedA, PackedB, Part


def shrink(segment: Segment, x: torch.Tensor, a: PackedA) -> torch.Tensor:
    """Multiply the segment's rows of `x` (`[rows, input]`) by their own A: `[segment rows, slices * rank]`."""
    if isinstance(segment, AdapterSegment):
        return _rows(x, segment.start, segment.stop).mm(a.of_slot(segment.slot))
    picked = x.index_select(0, segment.source)
    products = [_shrink_group(group, picked, a) for group in segment.groups]
    return products[0] if len(products) == 1 else torch.cat(products)


def expand(segment: Segment, h: torch.Tensor, b: PackedB, y: torch.Tensor) -> None:
    """Multiply `h` (from `shrink`) by each row's own B and add it to `y`, which has B's columns exactly.

    Rows without an adapter stay unchanged.
    """
    target = _rows(y, segment.start, segment.stop)
    add = _add_adapter if isinstance(segment, AdapterSegment) else _add_mixed
    if len(b.parts) == 1:
        add(segment, h, b.parts[0], target)  # type: ignore[arg-type]
        return
    lefts, targets = h.split_with_sizes(b.ranks, 1), target.split_with_sizes(b.heights, 1)
    for left, part, columns in zip(lefts, b.parts, targets, strict=True):
        add(segment, left, part, columns)  # type: ignore[arg-type]


def gather(segment: Segment, rows: torch.Tensor) -> torch.Tensor:
    """Gather the segment's rows from `rows` (batch order) in the segment's order."""
    if isinstance(segment, AdapterSegment):
        return rows[segment.start : segment.stop]
    return rows.index_select(0, segment.source)


def scatter(segment: Segment, h: torch.Tensor) -> torch.Tensor:
    """Scatter `h` (segment order) into batch order: one row for each of `segment.start : segment.stop`.

    Rows without an adapter become zero.
    """
    if isinstance(segment, AdapterSegment):
        return h
    return torch.cat((h, h.new_zeros((1, h.shape[1])))).index_select(0, segment.position)


def clear(segment: Segment, y: torch.Tensor) -> None:
    """Set the segment's adapter rows of `y` to zero."""
    if isinstance(segment, AdapterSegment):
        y[segment.start : segment.stop] = 0
    else:
        y.index_fill_(0, segment.source, 0)


def _shrink_group(group: SlotGroup, picked: torch.Tensor, a: PackedA) -> torch.Tensor:
    rows = _rows(picked, group.start, group.stop).view(-1, group.depth, picked.shape[1])
    return rows.bmm(a.of(group.slot_start, group.slot_stop)).view(group.stop - group.start, -1)


def _add_adapter(segment: AdapterSegment, h: torch.Tensor, part: Part, target: torch.Tensor) -> None:
    weights = part.of_slot(segment.slot)
    if part.slices == 1:
        _add_product(target, h, weights[0])
        return
    lefts = h.split_with_sizes([part.rank] * part.slices, 1)
    columns = target.split_with_sizes([part.height] * part.slices, 1)
    for left, weight, column in zip(lefts, weights, columns, strict=True):
        _add_product(column, left, weight)


def _add_product(target: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    if target.dtype == left.dtype:
        target.addmm_(left, right)
    else:
        target.add_(left.mm(right))


def _add_mixed(segment: MixedSegment, h: torch.Tensor, part: Part, target: torch.Tensor) -> None:
    product, outputs, own = segment.workspace(part.slices, part.height, h.dtype)
    for group, out in zip(segment.groups, outputs, strict=True):
        left = _rows(h, group.start, group.stop).view(-1, group.depth, part.slices * part.rank)
        if part.slices > 1:
            left = left.view(-1, group.depth, part.slices, part.rank).transpose(1, 2)
            left = left.reshape(-1, group.depth, part.rank)
        torch.bmm(left, part.of(group.slot_start, group.slot_stop), out=out)
    # NOTE: index_add_ would need one call less, but on a CPU it is scalar code, 3 to 5 times slower.
    torch.index_select(product, 0, segment.positions(part.slices), out=own)
    if part.slices == 1:
        target.add_(own)
    else:
        shape = (-1, part.slices, part.height)
        target.view(shape).add_(own.view(shape))


def _rows(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    return tensor if stop - start == len(tensor) else tensor[start:stop]
