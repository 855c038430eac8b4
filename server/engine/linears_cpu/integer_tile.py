"""The inner loop of products with weights of 4 or 8 bits. Leans on nothing of vLLM.

Both factors are integers of 16 bits in a register, and the sum of a group is an exact int32. Each group's sum is
then multiplied by the scales of its weights and of its inputs, and added to others in float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from server.engine.linears_cpu import vector_code as code

OUTPUTS, INPUTS = 4, 64
"""Outputs and inputs of a block of weights; the number of inputs of a group is a multiple of `INPUTS`."""

QUARTER = 16


class _Addresses(NamedTuple):
    """The arguments of a tile, as LLVM values."""

    x: Any
    x_stride: Any
    x_scales: Any
    x_scales_stride: Any
    w: Any
    scales: Any
    zeros: Any
    groups: Any
    pieces: Any
    bias: Any
    y: Any
    y_stride: Any


@intrinsic(prefer_literal=True)
def integer_tile(context: Any, x: Any, w: Any, y: Any, rows: Any, outputs: Any, bits: Any) -> Any:
    """`y = x @ w.T + bias` for `rows` × `outputs` values; these two and `bits` are literals.

    Args of the compiled function, tuples of int64:
        x: address and stride of int16 [rows, inputs], address and stride of their scales, float32 [rows, groups].
        w: addresses of a block's weights, their scales and zeros, float32 and uint8 [groups, OUTPUTS]; the number of
            groups, the number of `INPUTS` in a group; address of the bias. With 8 bits, weights are signed and zeros
            are not read.
        y: address and stride of float32 [rows, outputs].
    """
    shape = rows.literal_value, outputs.literal_value, bits.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, outputs, bits = shape
        unpacked = (value for each in arguments[:3] for value in cgutils.unpack_tuple(builder, each))
        at = _Addresses(*unpacked)
        sums = code.totals(builder, outputs, rows)
        counts = [[cgutils.alloca_once(builder, code.INTS) for _ in range(rows)] for _ in range(outputs)]
        with cgutils.for_range(builder, at.groups, intp=code.INT64) as group:
            _sum_group(builder, at, counts, group.index, bits)
            _scale_group(builder, at, counts, sums, group.index)
        code.write_tile(builder, sums, at.y, at.y_stride, at.bias)
        return context.get_dummy_value()

    return types.void(x, w, y, rows, outputs, bits), generate


def _sum_group(builder: Any, at: _Addresses, counts: list[list[Any]], group: Any, bits: int) -> None:
    """`counts[output][row]` = the group's sum of integer products, in eight parts."""
    zeros = []
    for output, line in enumerate(counts):
        for variable in line:
            builder.store(code.vector(code.INTS, 0), variable)
        if bits == 4:
            place = builder.add(builder.mul(group, code.number(OUTPUTS)), code.number(output))
            zero = code.load(builder, builder.add(at.zeros, place), code.INT8)
            zeros.append(code.spread(builder, builder.zext(zero, code.INT16), code.SHORTS))
    first = builder.mul(group, at.pieces)
    with cgutils.for_range(builder, at.pieces, intp=code.INT64) as piece:
        block = builder.add(first, piece.index)
        for quarter, weights in enumerate(_weights(builder, at, block, zeros, len(counts), bits)):
            offset = builder.add(
                builder.mul(block, code.number(2 * INPUTS)), code.number(2 * QUARTER * quarter)
            )
            for row in range(len(counts[0])):
                row_start = code.move(builder, at.x, at.x_stride, row)
                inputs = code.load(builder, builder.add(row_start, offset), code.SHORTS)
                for line, weight in zip(counts, weights, strict=True):
                    product = code.multiply_pairs(builder, weight, inputs)
                    builder.store(builder.add(builder.load(line[row]), product), line[row])


def _weights(builder: Any, at: _Addresses, block: Any, zeros: list[Any], outputs: int, bits: int) -> Any:
    """For each quarter of a block: its 16 weights of each output, minus the zero point."""
    start = builder.add(at.w, builder.mul(block, code.number(OUTPUTS * INPUTS * bits // 8)))
    if bits == 8:
        for quarter in range(4):
            offsets = [code.number((quarter * OUTPUTS + output) * QUARTER) for output in range(outputs)]
            stored = [code.load(builder, builder.add(start, offset), code.BYTES) for offset in offsets]
            yield [builder.sext(weights, code.SHORTS) for weights in stored]
        return
    offsets = [code.number(output * INPUTS // 2) for output in range(outputs)]
    stored = [code.load(builder, builder.add(start, offset), code.SHORTS) for offset in offsets]
    for quarter in range(4):
        shifted = [builder.lshr(word, code.vector(code.SHORTS, 4 * quarter)) for word in stored]
        codes = [builder.and_(word, code.vector(code.SHORTS, 15)) for word in shifted]
        yield [builder.sub(weights, zero) for weights, zero in zip(codes, zeros, strict=True)]


def _scale_group(
    builder: Any, at: _Addresses, counts: list[list[Any]], sums: list[list[Any]], group: Any
) -> None:
    """Add the group's integer sums, times both scales, to the sums of the tile."""
    for output, (line, whole) in enumerate(zip(counts, sums, strict=True)):
        place = builder.add(builder.mul(group, code.number(4 * OUTPUTS)), code.number(4 * output))
        scale = code.load(builder, builder.add(at.scales, place), code.FLOAT)
        for row, (count, total) in enumerate(zip(line, whole, strict=True)):
            row_scales = code.move(builder, at.x_scales, at.x_scales_stride, row)
            row_scale = code.load(
                builder, builder.add(row_scales, builder.mul(group, code.number(4))), code.FLOAT
            )
            both = code.spread(builder, builder.fmul(scale, row_scale), code.FLOATS)
            value = builder.sitofp(builder.load(count), code.FLOATS)
            builder.store(code.multiply_add(builder, value, both, builder.load(total)), total)
