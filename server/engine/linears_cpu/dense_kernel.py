"""Products of float32 rows with weights that are kept in 16 bits: half the bytes of float32, and the same values.

A checkpoint in bfloat16 loses nothing when its weights are widened to float32, so keeping the 16 bits and widening
them in a register gives the sums of float32. Leans on nothing of vLLM.

Weights [outputs, inputs] are kept as `[outputs / 4, inputs / 16, 4, 16]`: four outputs are computed together, and
memory is read from one end to the other.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
import torch
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from server.engine.linears_cpu import vector_code as code
from server.engine.linears_cpu.parallel_region import (
    FLAGS,
    MAX_ARGUMENTS,
    arguments,
    compile_loop,
    run,
    thread,
    threads,
)

OUTPUTS, INPUTS = 4, 16
"""Outputs and inputs of a block; a weight's shape must be a multiple."""


def pack(weight: torch.Tensor) -> torch.Tensor | None:
    """Weights [outputs, inputs] as bfloat16 in blocks; None if a value is not a bfloat16, or for another shape."""
    outputs, inputs = weight.shape
    if outputs % OUTPUTS or inputs % INPUTS:
        return None
    short = weight.to(torch.bfloat16)
    if weight.dtype != torch.bfloat16 and not torch.equal(short.to(weight.dtype), weight):
        return None
    return short.view(-1, OUTPUTS, inputs // INPUTS, INPUTS).transpose(1, 2).contiguous()


class DenseLoop:
    """The products with one layer's weights; for one thread, because a call changes the loop's arguments.

    Args:
        packed: from `pack`.
    """

    def __init__(self, packed: torch.Tensor) -> None:
        blocks, pieces, _, _ = packed.shape
        self._packed, self._loop = packed, product_loop()
        outputs, inputs = blocks * OUTPUTS, pieces * INPUTS
        self._values = arguments(0, packed.data_ptr(), 0, 0, inputs * 4, outputs * 4, 0, blocks, inputs)

    def multiply(self, x: torch.Tensor, bias: torch.Tensor, y: torch.Tensor) -> None:
        """`y = x @ weight.T + bias`, for few rows.

        Args:
            x: float32 [rows, inputs].
            bias: float32 [outputs].
            y: float32 [rows, outputs], overwritten. All are contiguous.
        """
        values = self._values
        values[0], values[2], values[3], values[6] = x.data_ptr(), bias.data_ptr(), y.data_ptr(), x.shape[0]
        run(self._loop, values)

    def unpack(self, start: int, stop: int, weight: torch.Tensor) -> None:
        """Write the outputs `start:stop`, both multiples of `OUTPUTS`, into float32 [stop - start, inputs]."""
        places = (self._packed.data_ptr(), weight.data_ptr())
        run(unpacking_loop(), arguments(*places, start // OUTPUTS, stop // OUTPUTS, self._packed.shape[1]))


@intrinsic(prefer_literal=True)
def _tile(
    context: Any, x: Any, x_stride: Any, w: Any, inputs: Any, bias: Any, y: Any, y_stride: Any,
    rows: Any, outputs: Any,
) -> Any:  # fmt: skip
    """One tile of `rows` × `outputs` (literals) of the product."""
    shape = rows.literal_value, outputs.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, x_stride, w, inputs, bias, y, y_stride, *_ = arguments
        sums = code.totals(builder, shape[1], shape[0])
        with cgutils.for_range_slice(builder, code.number(0), inputs, code.number(INPUTS), code.INT64) as (
            place,
            _,
        ):
            _add_piece(builder, sums, (x, x_stride, w), place)
        code.write_tile(builder, sums, y, y_stride, bias)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(whole, whole, whole, whole, whole, whole, whole, rows, outputs), generate


def _add_piece(builder: Any, sums: list[list[Any]], addresses: tuple[Any, Any, Any], place: Any) -> None:
    """Add the products of `INPUTS` inputs, from `place` on, to the sums of a tile."""
    x, x_stride, w = addresses
    for half in (0, INPUTS // 2):
        weights = []
        for output in range(len(sums)):
            offset = code.number(2 * (output * INPUTS + half))
            at = builder.add(builder.add(w, builder.mul(place, code.number(2 * OUTPUTS))), offset)
            wide = builder.zext(code.load(builder, at, code.HALF_SHORTS), code.INTS)
            weights.append(builder.bitcast(builder.shl(wide, code.vector(code.INTS, 16)), code.FLOATS))
        for row in range(len(sums[0])):
            at = code.move(builder, x, x_stride, row)
            at = builder.add(at, builder.mul(builder.add(place, code.number(half)), code.number(4)))
            inputs = code.load(builder, at, code.FLOATS)
            for line, weight in zip(sums, weights, strict=True):
                total = code.multiply_add(builder, weight, inputs, builder.load(line[row]))
                builder.store(total, line[row])


@functools.cache
def product_loop() -> ctypes.c_void_p:
    """The loop of `multiply`; compiled at the first call."""

    def loop(address: Any) -> None:
        values = carray(address, (MAX_ARGUMENTS,), np.int64)
        _multiply(values, thread(), threads())

    return compile_loop(loop)


@njit(**FLAGS)
def _multiply(values: Any, thread: int, threads: int) -> None:
    """One thread's share of the blocks; each block is multiplied with all rows while it is in the cache."""
    x, w, bias, y, x_stride, y_stride = values[0], values[1], values[2], values[3], values[4], values[5]
    rows, blocks, inputs = values[6], values[7], values[8]
    for block in range(blocks * thread // threads, blocks * (thread + 1) // threads):
        weights, added, column = w + block * inputs * 8, bias + block * 16, y + block * 16
        row = 0
        while row + 4 <= rows:
            source, target = x + row * x_stride, column + row * y_stride
            _tile(source, x_stride, weights, inputs, added, target, y_stride, 4, 2)
            _tile(source, x_stride, weights + 64, inputs, added + 8, target + 8, y_stride, 4, 2)
            row += 4
        if row + 2 <= rows:
            _tile(
                x + row * x_stride, x_stride, weights, inputs, added, column + row * y_stride, y_stride, 2, 4
            )
            row += 2
        if row < rows:
            _tile(
                x + row * x_stride, x_stride, weights, inputs, added, column + row * y_stride, y_stride, 1, 4
            )


@functools.cache
def unpacking_loop() -> ctypes.c_void_p:
    """The loop of `unpack`; compiled at the first call."""

    def loop(address: Any) -> None:
        values = carray(address, (MAX_ARGUMENTS,), np.int64)
        _unpack(values, thread(), threads())

    return compile_loop(loop)


@njit(**FLAGS)
def _unpack(values: Any, thread: int, threads: int) -> None:
    packed, weight, first, last, pieces = values[0], values[1], values[2], values[3], values[4]
    blocks = last - first
    for block in range(blocks * thread // threads, blocks * (thread + 1) // threads):
        for piece in range(pieces):
            for output in range(4):
                source = packed + (((first + block) * pieces + piece) * 4 + output) * 32
                _widen(source, weight + ((block * 4 + output) * pieces + piece) * 64)


@intrinsic
def _widen(context: Any, source: Any, target: Any) -> Any:
    """Write `INPUTS` bfloat16 as float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = builder.zext(code.load(builder, arguments[0], code.SHORTS), code.WIDE)
        bits = builder.shl(wide, code.vector(code.WIDE, 16))
        code.store(builder, bits, arguments[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate
