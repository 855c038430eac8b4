"""Products of rows with weights of 4 or 8 bits, on a CPU with AVX2. Leans on nothing of vLLM.

A group of inputs of each row is rounded to 16 bits with a scale of its own: within 1/65,534 of the group's largest
value, a hundredth of what rounding to bfloat16 loses. All products and the sum of a group are exact integers.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
import torch
from numba import carray, njit, types
from numba.extending import intrinsic

from server.engine.linears_cpu.integer_tile import INPUTS, OUTPUTS, integer_tile
from server.engine.linears_cpu.integer_weights import IntegerWeights
from server.engine.linears_cpu.parallel_region import (
    FLAGS,
    MAX_ARGUMENTS,
    arguments,
    barrier,
    compile_loop,
    run,
    thread,
    threads,
)

_HIGHEST = 32767

WORKSPACES_KEPT = 64


class IntegerLoop:
    """The products with one layer's weights; for one thread, because a call changes the loop's arguments."""

    def __init__(self, weights: IntegerWeights) -> None:
        self._weights, self._loop = weights, product_loop()
        places = (0, weights.blocks.data_ptr(), 0, 0, weights.inputs * 4, weights.outputs * 4)
        kept = (weights.scales.data_ptr(), weights.zeros.data_ptr(), 0, 0)
        shape = (0, weights.outputs // OUTPUTS, weights.inputs, weights.groups, weights.bits)
        self._values = arguments(*places, *kept, *shape)

    def multiply(self, x: torch.Tensor, bias: torch.Tensor, y: torch.Tensor) -> None:
        """`y = x @ weight.T + bias`, for few rows.

        Args:
            x: float32 [rows, inputs].
            bias: float32 [outputs].
            y: float32 [rows, outputs], overwritten. All are contiguous.
        """
        values, rows = self._values, x.shape[0]
        rounded, scales = _workspace(rows, self._weights.inputs, self._weights.groups)
        values[0], values[2], values[3] = x.data_ptr(), bias.data_ptr(), y.data_ptr()
        values[8], values[9], values[10] = rounded, scales, rows
        run(self._loop, values)

    def unpack(self, start: int, stop: int, target: torch.Tensor) -> None:
        """Write the outputs `start:stop`, both multiples of `OUTPUTS`, into float32 [stop - start, inputs]."""
        weights = self._weights
        places = (
            weights.blocks.data_ptr(),
            weights.scales.data_ptr(),
            weights.zeros.data_ptr(),
            target.data_ptr(),
        )
        shape = (start // OUTPUTS, stop // OUTPUTS, weights.inputs, weights.groups, weights.bits)
        run(unpacking_loop(), arguments(*places, *shape))


_workspaces: dict[tuple[int, int, int], tuple[int, int, Any]] = {}


def _workspace(rows: int, inputs: int, groups: int) -> tuple[int, int]:
    """Addresses of int16 [rows, inputs] and float32 [rows, groups], which all layers of a shape reuse."""
    found = _workspaces.get((rows, inputs, groups))
    if found is None:
        if len(_workspaces) >= WORKSPACES_KEPT:
            _workspaces.clear()
        kept = np.empty((rows, inputs), np.int16), np.empty((rows, groups), np.float32)
        found = _workspaces[rows, inputs, groups] = kept[0].ctypes.data, kept[1].ctypes.data, kept
    return found[0], found[1]


@functools.cache
def product_loop() -> ctypes.c_void_p:
    """The loop of `multiply`; compiled at the first call."""

    def loop(address: Any) -> None:
        values = carray(address, (MAX_ARGUMENTS,), np.int64)
        _round_inputs(values, thread(), threads())
        barrier()
        _multiply(values, thread(), threads())

    return compile_loop(loop)


@intrinsic
def _pointer(context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@njit(**FLAGS)
def _round_inputs(values: Any, thread: int, threads: int) -> None:
    """Round one thread's share of the groups of all rows. A group with NaN or infinity gets the scale NaN."""
    x, x_stride, rounded, scales = values[0], values[4], values[8], values[9]
    rows, inputs, groups = values[10], values[12], values[13]
    size = inputs // groups
    for index in range(rows * groups * thread // threads, rows * groups * (thread + 1) // threads):
        start = x + index // groups * x_stride + index % groups * size * 4
        source = carray(_pointer(start), (size,), np.float32)
        target = carray(_pointer(rounded + index * size * 2), (size,), np.int16)
        largest = not_finite = np.float32(0)
        for column in range(size):
            largest = max(largest, abs(source[column]))
            not_finite += source[column] * np.float32(0)
        factor = np.float32(_HIGHEST) / largest if largest > 0 else np.float32(0)
        carray(_pointer(scales + index * 4), (1,), np.float32)[0] = (
            largest / np.float32(_HIGHEST) + not_finite
        )
        for column in range(size):
            target[column] = np.int16(np.floor(source[column] * factor + np.float32(0.5)))


@njit(**FLAGS)
def _multiply(values: Any, thread: int, threads: int) -> None:
    """One thread's share of the blocks."""
    w, bias, y, y_stride, scales, zeros = values[1], values[2], values[3], values[5], values[6], values[7]
    rows, blocks, inputs, groups, bits = values[10], values[11], values[12], values[13], values[14]
    wide, narrow = inputs * 2, groups * 4
    pieces = inputs // groups // INPUTS
    for block in range(blocks * thread // threads, blocks * (thread + 1) // threads):
        weights, scale, zero = (
            w + block * inputs * bits // 2,
            scales + block * groups * 16,
            zeros + block * narrow,
        )
        own = (weights, scale, zero, groups, pieces, bias + block * 16)
        for row in range(0, rows - 3, 4):  # all rows, while the block is in the cache
            x = (values[8] + row * wide, wide, values[9] + row * narrow, narrow)
            _multiply_four_rows(x, own, (y + block * 16 + row * y_stride, y_stride), bits)
        for row in range(rows // 4 * 4, rows):
            x = (values[8] + row * wide, wide, values[9] + row * narrow, narrow)
            target = (y + block * 16 + row * y_stride, y_stride)
            if bits == 4:
                integer_tile(x, own, target, 1, 4, 4)
            else:
                integer_tile(x, own, target, 1, 4, 8)


@njit(**FLAGS)
def _multiply_four_rows(x: Any, w: Any, y: Any, bits: int) -> None:
    """In two tiles of two outputs, because their sums fill the registers."""
    weights, scale, zero, groups, pieces, bias = w
    for output in range(0, OUTPUTS, 2):
        start = weights + 128 // bits * output
        own = (start, scale + 4 * output, zero + output, groups, pieces, bias + 4 * output)
        target = (y[0] + 4 * output, y[1])
        if bits == 4:
            integer_tile(x, own, target, 4, 2, 4)
        else:
            integer_tile(x, own, target, 4, 2, 8)


@functools.cache
def unpacking_loop() -> ctypes.c_void_p:
    """The loop of `unpack`; compiled at the first call."""

    def loop(address: Any) -> None:
        values = carray(address, (MAX_ARGUMENTS,), np.int64)
        _unpack(values, thread(), threads())

    return compile_loop(loop)


@njit(**FLAGS)
def _unpack(values: Any, thread: int, threads: int) -> None:
    packed, scales, zeros, target = values[0], values[1], values[2], values[3]
    first, last, inputs, groups, bits = values[4], values[5], values[6], values[7], values[8]
    blocks, size = last - first, inputs // groups
    for block in range(blocks * thread // threads, blocks * (thread + 1) // threads):
        own = carray(_pointer(scales + (first + block) * groups * 16), (groups, 4), np.float32)
        zero = carray(_pointer(zeros + (first + block) * groups * 4), (groups, 4), np.uint8)
        rows = carray(_pointer(target + block * inputs * 16), (4, inputs), np.float32)
        start = _pointer(packed + (first + block) * inputs * bits // 2)
        words = carray(start, (inputs // 64, 4, 16), np.uint16)
        codes = carray(start, (inputs // 16, 4, 16), np.int8)
        for output in range(4):
            for quarter in range(inputs // 16):
                group = quarter * 16 // size
                scale = own[group, output]
                for place in range(16):
                    if bits == 8:
                        value = np.float32(codes[quarter, output, place])
                    else:
                        word = words[quarter // 4, output, place] >> np.uint16(4 * (quarter % 4))
                        value = np.float32(np.int32(word & np.uint16(15)) - np.int32(zero[group, output]))
                    rows[output, quarter * 16 + place] = value * scale
