"""One compiled kernel for both LoRA products of a packed layer, for the few rows of a decode step.

torch would start nine products per layer, each a parallel region with a few microseconds of work, and gather and
scatter rows around them. The kernel reads the weights of each row's own adapter once, sums in float32 and rounds
once, in one parallel region of torch's own threads: it calls libgomp as compilers do for `#pragma omp parallel`.

numba (one of vLLM's requirements) compiles the kernel in `prepare` or at its first use, and caches it on disk where
it can write. Leans on nothing else of vLLM.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from server.engine.linears_cpu.capability import can_start_threads
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
from server.engine.lora_cpu.batch import ScatteredRows
from server.engine.lora_cpu.weights import PackedA, PackedB
from server.engine.process.memory_pageout import page_out

#: The numpy type that stores each dtype. bfloat16 is the upper half of a float32.
_STORED = {torch.bfloat16: np.uint16(0), torch.float32: np.float32(0)}

DTYPES = frozenset(_STORED) if can_start_threads() else frozenset()
"""The dtypes that `multiply` supports; empty when torch was built with another OpenMP library."""

MAX_PARTS = (MAX_ARGUMENTS - 12) // 4
"""Largest number of parts of a layer, that is, groups of slices with one height (q; k and v: two parts)."""

_compiled = njit(**FLAGS)
#: Threads divide the columns into pieces of whole cache lines.
_PIECE = 32
_WORD = ir.IntType(32)


def prepare(dtype: torch.dtype) -> None:
    """Compile the kernel for a dtype now; it takes up to a second, which requests would otherwise wait for."""
    if dtype in DTYPES:
        _layer(dtype)
        page_out("libllvmlite")  # 75 MB of compiler that is not needed any more


def can_multiply(x: torch.Tensor, a: PackedA, b: PackedB, y: torch.Tensor) -> bool:
    """Whether `multiply` supports these tensors. NOTE: it writes to raw addresses; others would corrupt memory."""
    return (
        x.dtype in DTYPES
        and x.dtype == a.weight.dtype == b.dtype == y.dtype
        and x.stride(1) == y.stride(1) == 1
        and x.shape[1] == a.weight.shape[2]
        and y.shape[1] == sum(b.heights)
        and len(b.parts) <= MAX_PARTS
    )


def multiply(scattered: ScatteredRows, x: torch.Tensor, a: PackedA, b: PackedB, y: torch.Tensor) -> None:
    """Add `(x @ A.T) @ B.T` to the rows of `y` that have an adapter, each with its own A and B.

    All tensors have one dtype of `DTYPES`; the rows of `x` and `y` are dense.

    Args:
        scattered: the rows and their slots.
        x: `[rows, input]`.
        a: A of every slot.
        b: B of every slot, in at most `MAX_PARTS` parts.
        y: `[rows, output]`, with exactly the columns of B.
    """
    _, columns, width = a.weight.shape
    size = x.element_size()
    values = [
        *scattered.workspace(columns),
        *(x.data_ptr(), x.stride(0) * size, a.weight.data_ptr(), width),
        *(y.data_ptr(), y.stride(0) * size, len(b.parts)),
    ]
    for part in b.parts:
        values += (part.weight.data_ptr(), part.slices, part.rank, part.height)
    run(_layer(x.dtype), arguments(*values))


@functools.cache
def _layer(dtype: torch.dtype) -> ctypes.c_void_p:
    """The kernel for one layer, run by each thread of the region: `void (*)(int64_t *arguments)`."""
    like = _STORED[dtype]

    def layer(address: Any) -> None:
        values = carray(address, (MAX_ARGUMENTS,), np.int64)
        own, number = thread(), threads()
        _shrink(values, own, number, like)
        barrier()
        _expand(values, own, number, like)

    return compile_loop(layer)


@intrinsic
def _read(context: Any, address: Any, index: Any, like: Any) -> Any:
    """The number at `index` of an array at `address`, as float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(signature.args[2])
        start = builder.inttoptr(arguments[0], kind.as_pointer())
        value = builder.load(builder.gep(start, [arguments[1]]))
        if kind == ir.FloatType():
            return value
        return builder.bitcast(
            builder.shl(builder.zext(value, _WORD), ir.Constant(_WORD, 16)), ir.FloatType()
        )

    return types.float32(types.int64, types.int64, like), generate


@intrinsic
def _write(context: Any, address: Any, index: Any, value: Any, like: Any) -> Any:
    """Store a float32; a narrower type is rounded to nearest, ties to even; NaN stays NaN."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(signature.args[3])
        start = builder.inttoptr(arguments[0], kind.as_pointer())
        value = arguments[2]
        if kind != ir.FloatType():
            bits = builder.bitcast(value, _WORD)
            odd = builder.and_(builder.lshr(bits, ir.Constant(_WORD, 16)), ir.Constant(_WORD, 1))
            near = builder.add(bits, builder.add(odd, ir.Constant(_WORD, 0x7FFF)))
            nan = builder.fcmp_unordered("uno", value, value)
            kept = builder.select(nan, ir.Constant(_WORD, 0x7FC00000), near)
            value = builder.trunc(builder.lshr(kept, ir.Constant(_WORD, 16)), kind)
        builder.store(value, builder.gep(start, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32, like), generate


@intrinsic
def _read_int(context: Any, address: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load(builder.gep(start, [arguments[1]]))

    return types.int64(types.int64, types.int64), generate


@_compiled
def _shrink(values: Any, thread: int, threads: int, like: Any) -> None:
    """`h[i] = x[rows[i]] @ A[slots[i]].T`: one thread's share of the values; A is `[slots, columns, width]`."""
    count, rows, slots, h, columns = values[0], values[1], values[2], values[3], values[4]
    x, x_stride, a, width = values[5], values[6], values[7], values[8]
    wide = np.empty(width, np.float32)
    widened = -1
    for line in range(count * columns * thread // threads, count * columns * (thread + 1) // threads):
        index, target = line // columns, line % columns
        if index != widened:
            row = x + _read_int(rows, index) * x_stride
            for column in range(width):
                wide[column] = _read(row, column, like)
            widened = index
        start = (_read_int(slots, index) * columns + target) * width
        total = np.float32(0)
        for column in range(width):
            total += wide[column] * _read(a, start + column, like)
        _write(h, line, total, np.float32(0))


@_compiled
def _sum_columns(
    total: Any, h: int, source: int, rank: int, b: int, begin: int, height: int, like: Any
) -> None:
    """`total = h[source : source + rank] @ B` for the columns of B from address index `begin` on."""
    total[:] = 0
    for _ in range(rank // 4):  # four at once: the sums are read and written a quarter as often
        h0, h1 = _read(h, source, np.float32(0)), _read(h, source + 1, np.float32(0))
        h2, h3 = _read(h, source + 2, np.float32(0)), _read(h, source + 3, np.float32(0))
        for column in range(len(total)):
            total[column] += (
                h0 * _read(b, begin + column, like)
                + h1 * _read(b, begin + height + column, like)
                + h2 * _read(b, begin + 2 * height + column, like)
                + h3 * _read(b, begin + 3 * height + column, like)
            )
        source += 4
        begin += 4 * height
    for _ in range(rank % 4):
        factor = _read(h, source, np.float32(0))
        for column in range(len(total)):
            total[column] += factor * _read(b, begin + column, like)
        source += 1
        begin += height


@_compiled
def _expand(values: Any, thread: int, threads: int, like: Any) -> None:
    """`y[rows[i]] += h[i] @ B[slots[i]]`: one thread's share of the columns; B is `[slots, slices, rank, height]`."""
    count, rows, slots, h, columns = values[0], values[1], values[2], values[3], values[4]
    y, y_stride, parts = values[9], values[10], values[11]
    left = first = 0
    for part in range(parts):
        at = 12 + 4 * part
        b, slices, rank, height = values[at], values[at + 1], values[at + 2], values[at + 3]
        pieces = (height + _PIECE - 1) // _PIECE
        start = pieces * thread // threads * _PIECE
        stop = min(height, pieces * (thread + 1) // threads * _PIECE)
        total = np.empty(max(0, stop - start), np.float32)
        for index in range(count):
            row = y + _read_int(rows, index) * y_stride
            line = _read_int(slots, index) * slices * rank * height
            for slice_ in range(slices):
                _sum_columns(
                    total, h, index * columns + left + slice_ * rank, rank, b, line + start, height, like
                )
                line += rank * height
                for column in range(stop - start):
                    place = first + slice_ * height + start + column
                    _write(row, place, _read(row, place, like) + total[column], like)
        left += slices * rank
        first += slices * height
