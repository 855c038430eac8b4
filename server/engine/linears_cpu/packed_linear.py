"""A linear layer with packed weights: loops for few rows, torch's product for many. Leans on nothing of vLLM.

With few rows reading the weights takes the time, with many the arithmetic. A product of many rows unpacks some
outputs at a time, so that the unpacked weights are still in the cache when torch multiplies.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from server.engine.linears_cpu import dense_kernel
from server.engine.linears_cpu.dense_kernel import DenseLoop
from server.engine.linears_cpu.integer_kernel import IntegerLoop
from server.engine.linears_cpu.integer_weights import IntegerWeights

UNPACKED_BYTES = 4 * 1024**2
"""Size of the weights that are unpacked at a time."""

ROWS_TRIED = (16, 32, 64, 128)
"""Numbers of rows at which the loop and torch's product are compared; below the first the loop is always used."""

SAMPLE_OUTPUTS = 2048
"""How many outputs of a layer are measured."""

_REPEATS = 3


class Loop(Protocol):
    """`DenseLoop` or `IntegerLoop`."""

    def multiply(self, x: torch.Tensor, bias: torch.Tensor, y: torch.Tensor) -> None:
        """Write the product of few rows into `y`."""

    def unpack(self, start: int, stop: int, target: torch.Tensor, /) -> None:
        """Write the outputs `start:stop` in float32."""


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """`x @ weight.T + bias` in float32.

    Args:
        outputs: height of the weights.
        inputs: their width.
        loop: multiplies few rows.
        loop_rows: the largest number of rows that it multiplies.
    """

    outputs: int
    inputs: int
    loop: Loop
    loop_rows: int

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Multiply `[..., inputs]` of any floating-point type; the result is of the same type."""
        if x.dtype != torch.float32 or x.dim() != 2 or not x.is_contiguous():
            rows = x.reshape(-1, self.inputs).to(torch.float32).contiguous()
            return self(rows, bias).to(x.dtype).view(*x.shape[:-1], self.outputs)
        y = x.new_empty((x.shape[0], self.outputs))
        if bias is None:
            bias = zeros(self.outputs)
        elif bias.dtype != torch.float32 or not bias.is_contiguous():
            bias = bias.to(torch.float32).contiguous()
        if x.shape[0] <= self.loop_rows:
            self.loop.multiply(x, bias, y)
        else:
            self._multiply_many(x, bias, y)
        return y

    def _multiply_many(self, x: torch.Tensor, bias: torch.Tensor, y: torch.Tensor) -> None:
        step = tile_outputs(self.inputs)
        for start in range(0, self.outputs, step):
            stop = min(start + step, self.outputs)
            weight = _scratch(self.inputs)[: stop - start]
            self.loop.unpack(start, stop, weight)
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
    outputs, inputs = weight.shape
    sample = packed[: SAMPLE_OUTPUTS // dense_kernel.OUTPUTS]
    rows = _measured_rows(len(sample) * dense_kernel.OUTPUTS, inputs, DenseLoop(sample), bits=16)
    return PackedLinear(outputs, inputs, DenseLoop(packed), rows)


def integer_linear(weights: IntegerWeights) -> PackedLinear:
    """A layer with weights of 4 or 8 bits."""
    sample = weights.first(min(SAMPLE_OUTPUTS, weights.outputs))
    rows = _measured_rows(sample.outputs, sample.inputs, IntegerLoop(sample), bits=weights.bits)
    return PackedLinear(weights.outputs, weights.inputs, IntegerLoop(weights), rows)


def _measured_rows(outputs: int, inputs: int, sample: Loop, *, bits: int) -> int:
    """`fastest_rows` of the layers of a shape, of which a sample of the outputs is enough."""
    rows = _loop_rows.get((outputs, inputs, bits))
    if rows is None:
        always = PackedLinear(outputs, inputs, sample, max(ROWS_TRIED))
        rows = _loop_rows[outputs, inputs, bits] = fastest_rows(
            always, PackedLinear(outputs, inputs, sample, 0)
        )
    return rows


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
