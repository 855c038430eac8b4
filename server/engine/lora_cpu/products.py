"""The two products of LoRA, `h = x @ A.T` and `y += h @ B.T`, for one block of a batch.

Between the two, `h` holds the rows of the block in the block's own order: batch order in a run, sorted
by slot and padded in a zone.
"""

from __future__ import annotations

import torch

from server.engine.lora_cpu.batch import Block, Run, Zone
from server.engine.lora_cpu.weights import Expand, Shrink


def shrink(block: Block, x: torch.Tensor, a: Shrink) -> torch.Tensor:
    """Multiply the block's rows of `x` (`[rows, input]`) by their own A.

    Computes in the wider dtype of the two and returns `[block rows, slices * rank]`.
    """
    dtype = torch.promote_types(x.dtype, a.weight.dtype)
    if isinstance(block, Run):
        return torch.mm(x[block.start : block.stop].to(dtype), a.weight[block.slot].to(dtype).t())
    picked = x.index_select(0, block.source).to(dtype)
    h = picked.new_empty((block.sorted_rows, a.weight.shape[1]))
    _multiply_sorted(block, picked, a.weight.transpose(1, 2), h)
    return h


def expand(block: Block, h: torch.Tensor, b: Expand, y: torch.Tensor, offset: int, *, add: bool) -> None:
    """Multiply `h` (from `shrink`) by each row's own B and put it into `y` from column `offset` on.

    With `add` the product is added to the block's rows of `y`, otherwise it replaces them; rows without an
    adapter stay as they are. Columns that `y` lacks are dropped (a vocabulary may be padded).
    """
    dtype = torch.promote_types(y.dtype, b.weights[0].dtype)
    h = h.to(dtype)
    for index, weight in enumerate(b.weights):
        part = h[:, index * b.rank : (index + 1) * b.rank]
        width = min(weight.shape[2], y.shape[1] - offset)
        target = y[block.start : block.stop, offset : offset + width]
        _expand_slice(block, part, weight[:, :, :width], target, add=add)
        offset += width


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


def _expand_slice(
    block: Block, h: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, *, add: bool
) -> None:
    if isinstance(block, Run):
        own = weight[block.slot].to(h.dtype)
        if add and h.dtype == target.dtype:
            target.addmm_(h, own)
        elif add:
            target.add_(h @ own)
        else:
            target.copy_(h @ own)
        return
    product = h.new_empty((block.sorted_rows + 1, weight.shape[2]))
    product[-1].zero_()
    _multiply_sorted(block, h, weight, product)
    if add:
        # NOTE: index_add_ would do it in one call, but it is scalar code on the CPU: 3 to 5 times slower.
        target.add_(product.index_select(0, block.position))
        return
    adapted = (block.position < block.sorted_rows).nonzero().squeeze(1)
    target.index_copy_(0, adapted, product.index_select(0, block.position[adapted]).to(target.dtype))


def _multiply_sorted(zone: Zone, rows: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    """Multiply sorted rows by the matrices of their slots: `out[i] = rows[i] @ weight[slot of i]`."""
    for group in zone.groups:
        own = weight[group.slot_start : group.slot_stop].to(rows.dtype)
        stop = group.offset + len(own) * group.depth
        left = rows[group.offset : stop].view(len(own), group.depth, rows.shape[1])
        torch.bmm(left, own, out=out[group.offset : stop].view(len(own), group.depth, out.shape[1]))
