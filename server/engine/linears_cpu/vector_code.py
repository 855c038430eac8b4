"""LLVM code for vectors of 256 bits, which numba has no type for. Leans on nothing of vLLM.

Addresses are int64 values; offsets are counted in bytes. Loads need no alignment.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

INT8, INT16, INT32, INT64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
FLOAT = ir.FloatType()
FLOATS = ir.VectorType(FLOAT, 8)
INTS = ir.VectorType(INT32, 8)
WIDE = ir.VectorType(INT32, 16)
SHORTS = ir.VectorType(INT16, 16)
HALF_SHORTS = ir.VectorType(INT16, 8)
BYTES = ir.VectorType(INT8, 16)
ZERO = ir.Constant(FLOATS, [0.0] * 8)


def number(value: int) -> Any:
    """An int64 constant."""
    return ir.Constant(INT64, value)


def vector(kind: Any, value: int) -> Any:
    """A constant vector whose elements are all `value`."""
    return ir.Constant(kind, [value] * kind.count)


def load(builder: Any, address: Any, kind: Any) -> Any:
    """The value of type `kind` at an address."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def store(builder: Any, value: Any, address: Any) -> None:
    """Write a value to an address."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def move(builder: Any, address: Any, step: Any, times: int) -> Any:
    """`address + step * times`."""
    return builder.add(address, builder.mul(step, number(times)))


def spread(builder: Any, value: Any, kind: Any) -> Any:
    """A vector whose elements are all the scalar `value`."""
    nothing = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(INT32, 0))
    return builder.shuffle_vector(first, nothing, vector(ir.VectorType(INT32, kind.count), 0))


def add_up(builder: Any, floats: Any) -> Any:
    """The sum of the eight elements, always in the same order."""
    nothing = ir.Constant(FLOATS, ir.Undefined)
    for width in (4, 2, 1):
        places = [width + place for place in range(width)] + [0] * (8 - width)
        upper = builder.shuffle_vector(floats, nothing, ir.Constant(INTS, places))
        floats = builder.fadd(floats, upper)
    return builder.extract_element(floats, ir.Constant(INT32, 0))


def multiply_add(builder: Any, a: Any, b: Any, total: Any) -> Any:
    """`a * b + total` for eight floats, rounded once."""
    return builder.call(_function(builder, "llvm.fma.v8f32", FLOATS, (FLOATS, FLOATS, FLOATS)), (a, b, total))


def multiply_pairs(builder: Any, a: Any, b: Any) -> Any:
    """`a[2i] * b[2i] + a[2i + 1] * b[2i + 1]` of 16 int16 as eight int32: one instruction of AVX2."""
    return builder.call(_function(builder, "llvm.x86.avx2.pmadd.wd", INTS, (SHORTS, SHORTS)), (a, b))


def totals(builder: Any, outputs: int, rows: int) -> list[list[Any]]:
    """Variables for the sums of a tile, `[outputs][rows]`, set to zero."""
    found = [[cgutils.alloca_once(builder, FLOATS) for _ in range(rows)] for _ in range(outputs)]
    for variable in (variable for line in found for variable in line):
        builder.store(ZERO, variable)
    return found


def write_tile(builder: Any, sums: list[list[Any]], y: Any, y_stride: Any, bias: Any) -> None:
    """`y[row][output] = sum + bias[output]`; both in float32."""
    for output, line in enumerate(sums):
        offset = number(4 * output)
        added = load(builder, builder.add(bias, offset), FLOAT)
        for row, variable in enumerate(line):
            value = builder.fadd(add_up(builder, builder.load(variable)), added)
            store(builder, value, builder.add(move(builder, y, y_stride, row), offset))


def _function(builder: Any, name: str, result: Any, arguments: tuple[Any, ...]) -> Any:
    found = builder.module.globals.get(name)
    return found or ir.Function(builder.module, ir.FunctionType(result, arguments), name)
