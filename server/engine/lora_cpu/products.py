"""The two products of LoRA, `h = x @ A.T` and `y += h @ B.T`, for one block of a batch.

Between the two, `h` holds the rows of the block in the block's own order: batch order in a run, sorted
by slot and padded in a zone. `x`, `h` and the weights must share one dtype; `y` may have another.

These run four times per layer and step, for products of a few microseconds: every call and every view
counts, which is why views of weights are kept and whole tensors are not sliced.
"""

from __future__ import annotations

import torch

from server.engine.lora_cpu.batch import Block, Group, Run, Zone
from server.engine.lora_cpu.weights import Expand, Part, Shrink


def shrink(block: Block, x: torch.Tensor, a: Shrink) -> torch.Tensor:
    """Multiply the block's rows of `x` (`[rows, input]`) by their own A: `[block rows, slices * rank]`."""
    if isinstance(block, Run):
        return _rows(x, block.start, block.stop).mm(a.of_slot(block.slot))
    picked = x.index_select(0, block.source)
    products = [_shrink_group(group, picked, a) for group in block.groups]
    return products[0] if len(products) == 1 else torch.cat(products)


def expand(block: Block, h: torch.Tensor, b: Expand, y: torch.Tensor) -> None:
    """Multiply `h` (from `shrink`) by each row's own B and add it to `y`, which has B's columns exactly.

    Rows without an adapter stay as they are.
    """
    target = _rows(y, block.start, block.stop)
    add = _add_run if isinstance(block, Run) else _add_zone
    if len(b.parts) == 1:
        add(block, h, b.parts[0], target)  # type: ignore[arg-type]
        return
    lefts, targets = h.split_with_sizes(b.ranks, 1), target.split_with_sizes(b.heights, 1)
    for left, part, columns in zip(lefts, b.parts, targets, strict=True):
        add(block, left, part, columns)  # type: ignore[arg-type]


def collect(block: Block, rows: torch.Tensor) -> torch.Tensor:
    """Take the block's rows out of `rows` (batch order), in the block's order."""
    if isinstance(block, Run):
        return rows[block.start : block.stop]
    return rows.index_select(0, block.source)


def spread(block: Block, h: torch.Tensor) -> torch.Tensor:
    """Put `h` (block order) back into batch order: one row for each of `block.start : block.stop`.

    Rows without an adapter become zero.
    """
    if isinstance(block, Run):
        return h
    return torch.cat((h, h.new_zeros((1, h.shape[1])))).index_select(0, block.position)


def clear(block: Block, y: torch.Tensor) -> None:
    """Set the block's adapter rows of `y` to zero."""
    if isinstance(block, Run):
        y[block.start : block.stop] = 0
    else:
        y.index_fill_(0, block.source, 0)


def _shrink_group(group: Group, picked: torch.Tensor, a: Shrink) -> torch.Tensor:
    rows = _rows(picked, group.start, group.stop).view(-1, group.depth, picked.shape[1])
    return rows.bmm(a.of(group.slot_start, group.slot_stop)).view(group.stop - group.start, -1)


def _add_run(run: Run, h: torch.Tensor, part: Part, target: torch.Tensor) -> None:
    weights = part.of_slot(run.slot)
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


def _add_zone(zone: Zone, h: torch.Tensor, part: Part, target: torch.Tensor) -> None:
    product, outputs, own = zone.workspace(part.slices, part.height, h.dtype)
    for group, out in zip(zone.groups, outputs, strict=True):
        left = _rows(h, group.start, group.stop).view(-1, group.depth, part.slices * part.rank)
        if part.slices > 1:
            left = left.view(-1, group.depth, part.slices, part.rank).transpose(1, 2)
            left = left.reshape(-1, group.depth, part.rank)
        torch.bmm(left, part.of(group.slot_start, group.slot_stop), out=out)
    # NOTE: index_add_ would need one call less, but on a CPU it is scalar code, 3 to 5 times slower.
    torch.index_select(product, 0, zone.positions(part.slices), out=own)
    if part.slices == 1:
        target.add_(own)
    else:
        shape = (-1, part.slices, part.height)
        target.view(shape).add_(own.view(shape))


def _rows(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    return tensor if stop - start == len(tensor) else tensor[start:stop]
