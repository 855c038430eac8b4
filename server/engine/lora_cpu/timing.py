"""Measures the LoRA products alone, next to the base product and vLLM's own, for `python -m benchmarks kernel`.

Leans on (vLLM 0.32): `vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm` (the engine's base product),
`vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU` (vLLM's own products).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.platforms import current_platform

from server.engine.lora_cpu.weights import Stacked
from server.engine.lora_cpu.wrapper import LoragatePunicaWrapperCPU

COLD_LAYERS = 4
"""Number of layers with different weights that take turns: a model's weights come from memory, not from a cache."""


@dataclass(frozen=True, slots=True)
class Projection:
    """One packed linear layer of a model: `slices` are the heights of its parts (q, k, v)."""

    name: str
    width: int
    slices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProjectionTimes:
    """Seconds per call of the base product, and the seconds that our and vLLM's LoRA products add to it."""

    projection: Projection
    base_s: float
    ours_s: float
    stock_s: float


@dataclass(frozen=True, slots=True)
class _Layer:
    base: torch.nn.Module
    ours: tuple[Stacked, Stacked]
    stock: tuple[Stacked, Stacked]


def use_threads(count: int) -> None:
    """Set the number of threads that torch computes with."""
    torch.set_num_threads(count)


def time_projection(
    projection: Projection, rows: Sequence[int], *, adapters: int, rank: int, dtype: str, repeats: int
) -> ProjectionTimes:
    """Time one projection on a batch whose row i uses the adapter `rows[i]` (-1: the base model).

    Each figure is the best of `repeats` passes over `COLD_LAYERS` layers, with torch's current thread count.
    """
    current_platform.import_kernels()
    kind: torch.dtype = getattr(torch, dtype)
    with torch.no_grad():
        layers = [_layer(projection, adapters, rank, kind) for _ in range(COLD_LAYERS)]
        x = torch.randn(len(rows), projection.width).to(kind)
        y = torch.randn(len(rows), sum(projection.slices)).to(kind)
        ours = _wrapper(LoragatePunicaWrapperCPU, rows, adapters, kind)
        stock = _wrapper(PunicaWrapperCPU, rows, adapters, kind)

        def base_call(layer: _Layer) -> None:
            layer.base.cpu_linear(x, layer.base.weight, None)

        def ours_call(layer: _Layer) -> None:
            ours.add_lora_linear(y, x, *layer.ours, 1.0, projection.slices)

        def stock_call(layer: _Layer) -> None:
            stock.add_lora_linear(y, x, *layer.stock, 1.0, projection.slices)

        base_s, ours_s, stock_s = _best((base_call, ours_call, stock_call), layers, repeats)
        return ProjectionTimes(projection, base_s, ours_s, stock_s)


def _layer(projection: Projection, adapters: int, rank: int, dtype: torch.dtype) -> _Layer:
    base = torch.nn.Module()
    weight = torch.randn(sum(projection.slices), projection.width).to(dtype)
    base.weight = torch.nn.Parameter(weight, requires_grad=False)
    dispatch_cpu_unquantized_gemm(base, remove_weight=False)
    a = tuple(torch.randn(adapters, 1, rank, projection.width).to(dtype) for _ in projection.slices)
    b = tuple(torch.randn(adapters, 1, height, rank).to(dtype) for height in projection.slices)
    stock = (tuple(part.clone() for part in a), tuple(part.clone() for part in b))
    return _Layer(base, (a, b), stock)


def _wrapper(
    kind: type[PunicaWrapperCPU], rows: Sequence[int], adapters: int, dtype: torch.dtype
) -> PunicaWrapperCPU:
    wrapper = kind(len(rows), len(rows), "cpu", lora_config=SimpleNamespace(lora_dtype=dtype))
    ids = tuple(row + 1 for row in rows)
    mapping = LoRAMapping(ids, ids, is_prefill=True)
    wrapper.update_metadata(mapping, list(range(1, adapters + 1)), adapters + 1, 1)
    return wrapper


def _best(calls: Sequence[Callable[[_Layer], None]], layers: Sequence[_Layer], repeats: int) -> list[float]:
    """Time the calls alternately, so that all see the same load on the machine; the first round is not counted."""
    best = [float("inf")] * len(calls)
    for turn in range(repeats + 1):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            for layer in layers:
                call(layer)
            if turn:
                best[index] = min(best[index], (time.perf_counter() - start) / len(layers))
    return best
