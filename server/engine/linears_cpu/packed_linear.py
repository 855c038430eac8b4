"""A linear layer with packed weights: loops for few rows, torch's product for many. Leans on nothing of vLLM.

With few rows reading the weights takes the time, with many the arithmetic. A product of many rows unpacks some
outputs at a time, so that the unpacked weights are still in the cache when torch multiplies.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from server.engine.linears_cpu import dense_kernel, integer_kernel
from server.engine.linears_cpu.integer_weights import IntegerWeights

UNPACKED_BYTES = 4 * 1024**2
"""Size of the weights that are unpacked at a time."""

ROWS_TRIED = (16, 32, 64, 128)
"""Numbers of rows at which the loop and torch's product are compared; below the first the loop is always used."""

_REPEATS = 3

Multiply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
Unpack = Callable[[int, int, torch.Tensor], None]


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """`x @ weight.T + bias` in float32.

    Args:
        outputs: height of the weights.
        inputs: their width.
        multiply: `multiply(x, bias, y)` writes the product of few rows into `y`.
        unpack: `unpack(start, stop, weight)` writes the outputs `start:stop` in float32.
        loop_rows: the largest number of rows for `multiply`.
    """

    outputs: int
    inputs: int
    multiply: Multiply
    unpack: Unpack
    loop_rows: int

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Multiply `[..., inputs]` of any floating-point type; the result is of the same type."""
        rows = x.reshape(-1, self.inputs).to(torch.float32)
        if rows.stride(1) != 1:
            rows = rows.contiguous()
        y = rows.new_empty(len(rows), self.outputs)
        added = zeros(self.outputs) if bias is None else bias.to(torch.float32).contiguous()
        if len(rows) <= self.loop_rows:
            self.multiply(rows, added, y)
        else:
            self._multiply_many(rows, added, y)
        return y.to(x.dtype).view(*x.shape[:-1], self.outputs)

    def _multiply_many(self, x: torch.Tensor, bias: torch.Tensor, y: torch.Tensor) -> None:
        step = tile_outputs(self.inputs)
        for start in range(0, self.outputs, step):
            stop = min(start + step, self.outputs)
            weight = _scratch(self.inputs)[: stop - start]
            self.unpack(start, stop, weight)
            torch.addmm(bias[start:stop], x, weight.t(), out=y[:, start:stop])


def tile_outputs(inputs: int) -> int:
    """How many outputs are unpacked at a time."""
    return max(16, UNPACKED_BYTES // (4 * inputs) // 16 * 16)


@functools.cache
def zeros(outputs: int) -> torch.Tensor:
    """The bias of a layer without one."""
    with torch.inference_mode(False):
        return torch.zeros(outputs)


@functools.cache
def _scratch(inputs: int) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.empty(tile_outputs(inputs), inputs)


def dense_linear(weight: torch.Tensor) -> PackedLinear | None:
    """Pack the weights [outputs, inputs] of a layer; None if a value is not a bfloat16, or for another shape."""
    packed = dense_kernel.pack(weight)
    if packed is None:
        return None
    return _measured(
        *weight.shape,
        lambda x, bias, y: dense_kernel.multiply(x, packed, bias, y),
        lambda start, stop, target: dense_kernel.unpack(packed, start, stop, target),
        kind=16,
    )


def integer_linear(weights: IntegerWeights) -> PackedLinear:
    """A layer with weights of 4 or 8 bits."""
    return _measured(
        weights.outputs,
        weights.inputs,
        lambda x, bias, y: integer_kernel.multiply(x, weights, bias, y),
        lambda start, stop, target: integer_kernel.unpack(weights, start, stop, target),
        kind=weights.bits,
    )


def _measured(outputs: int, inputs: int, multiply: Multiply, unpack: Unpack, *, kind: int) -> PackedLinear:
    rows = _loop_rows.get((outputs, inputs, kind))
    if rows is None:
        rows = _loop_rows[outputs, inputs, kind] = fastest_rows(
            PackedLinear(outputs, inputs, multiply, unpack, max(ROWS_TRIED)),
            PackedLinear(outputs, inputs, multiply, unpack, 0),
        )
    return PackedLinear(outputs, inputs, multiply, unpack, rows)


_loop_rows: dict[tuple[int, int, int], int] = {}


def fastest_rows(loop: Callable[..., object], torch_product: PackedLinear) -> int:
    """The largest number of rows at which the loop is faster; measured now, in tens of milliseconds."""
    chosen = ROWS_TRIED[0] - 1
    with torch.inference_mode():
        for rows in ROWS_TRIED:
            x = torch.randn(rows, torch_product.inputs)
            times_s = [_best_s(call, x) for call in (loop, torch_product)]
            if times_s[0] > times_s[1]:
                break
            chosen = rows
    return chosen


def _best_s(call: Callable[..., object], x: torch.Tensor) -> float:
    taken_s = []
    for _ in range(_REPEATS):
        start_s = time.perf_counter()
        call(x, None)
        taken_s.append(time.perf_counter() - start_s)
    return min(taken_s)
