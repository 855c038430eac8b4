"""The two products of LoRA, `h = x @ A.T` and `y += h @ B.T`, for one block of a batch.

Between the two, `h` holds the rows of the block in the block's own order: batch order in a run, sorted
by slot and padded in a zone. `x`, `h` and the weights must share one dtype; `y` may have another.
"""

from __future__ import annotations

import torch

from server.engine.lora_cpu.batch import Block, Run, Zone
from server.engine.lora_cpu.weights import Expand, Part, Shrink


def shrink(block: Block, x: torch.Tensor, a: Shrink) -> torch.Tensor:
    """Multiply the block's rows of `x` (`[rows, input]`) by their own A: `[block rows, slices * rank]`."""
    if isinstance(block, Run):
        return torch.mm(x[block.start : block.stop], a.weight[block.slot].t())
    picked = x.index_select(0, block.source)
    products = [
        torch.bmm(
            picked[group.offset : group.stop].view(group.slots, group.depth, -1),
            a.weight[group.slot_start : group.slot_stop].transpose(1, 2),
        ).view(group.stop - group.offset, -1)
        for group in block.groups
    ]
    return products[0] if len(products) == 1 else torch.cat(products)


def expand(block: Block, h: torch.Tensor, b: Expand, y: torch.Tensor, column: int, *, add: bool) -> None:
    """Multiply `h` (from `shrink`) by each row's own B and put it into `y` from `column` on.

    With `add` the product is added to the block's rows of `y`, otherwise it replaces them; rows without an
    adapter stay as they are. Columns that `y` lacks are dropped (a vocabulary may be padded).
    """
    rank_start = 0
    for part in b.parts:
        slices, rank = part.weight.shape[1:3]
        columns = h if len(b.parts) == 1 else h[:, rank_start : rank_start + slices * rank]
        if isinstance(block, Run):
            _expand_run(block, columns, part, y, column + part.column, add=add)
        else:
            _expand_zone(block, columns, part, y, column + part.column, add=add)
        rank_start += slices * rank


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


def _expand_run(run: Run, h: torch.Tensor, part: Part, y: torch.Tensor, column: int, *, add: bool) -> None:
    slices, rank, height = part.weight.shape[1:]
    for index in range(slices):
        target = y[run.start : run.stop, column : column + height]
        left = h if slices == 1 else h[:, index * rank : (index + 1) * rank]
        weight = part.weight[run.slot, index, :, : target.shape[1]]
        if not add:
            target.copy_(left @ weight)
        elif target.dtype == left.dtype:
            target.addmm_(left, weight)
        else:
            target.add_(left @ weight)
        column += height


def _expand_zone(zone: Zone, h: torch.Tensor, part: Part, y: torch.Tensor, column: int, *, add: bool) -> None:
    slices, _, height = part.weight.shape[1:]
    product = _multiply_sorted(zone, h, part)
    target = y[zone.start : zone.stop, column : column + slices * height]
    if target.shape[1] < slices * height:
        product = product[:, : target.shape[1]]
    target = target.unflatten(1, (slices, -1))
    if add:
        # NOTE: index_add_ would need one call less, but on a CPU it is scalar code, 3 to 5 times slower.
        target.add_(product.index_select(0, zone.positions(slices)).view(target.shape))
        return
    adapted = (zone.position < len(zone.source)).nonzero().squeeze(1)
    rows = zone.positions(slices).view(-1, slices)[adapted].view(-1)
    target.index_copy_(0, adapted, product[rows].view(-1, *target.shape[1:]).to(y.dtype))


def _multiply_sorted(zone: Zone, h: torch.Tensor, part: Part) -> torch.Tensor:
    """Multiply sorted rows by their slots' matrices, in the order that `Zone.positions` names.

    Base rows are sent to a row of zeros at the end, if there are any.
    """
    slices, rank, height = part.weight.shape[1:]
    product = h.new_empty((len(zone.source) * slices + zone.has_base_rows, height))
    for group in zone.groups:
        left = h[group.offset : group.stop].view(group.slots, group.depth, slices, rank).transpose(1, 2)
        torch.bmm(
            left.reshape(group.slots * slices, group.depth, rank),
            part.weight[group.slot_start : group.slot_stop].view(-1, rank, height),
            out=product[group.offset * slices : group.stop * slices].view(-1, group.depth, height),
        )
    if zone.has_base_rows:
        product[-1].zero_()
    return product
