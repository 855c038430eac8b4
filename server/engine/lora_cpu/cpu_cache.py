"""Keeps the adapters in vLLM's CPU cache in the memory order of the slots, so that activating one is fast.

Leans on (vLLM 0.32): `vllm.lora.worker_manager.WorkerLoRAManager._load_adapter` (wrapped),
`vllm.lora.lora_model.LoRAModel` (`loras`), `vllm.lora.lora_weights.LoRALayerWeights` (`lora_b`).

An adapter that gets a slot is copied into it, layer by layer, while every request waits. `weights` stores B
transposed; copying from a B in vLLM's own order takes twice as long.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm.lora.worker_manager import WorkerLoRAManager


def install() -> None:
    """Transpose every adapter that vLLM takes into its cache on the CPU from now on. Idempotent."""
    load: Callable[..., Any] = WorkerLoRAManager._load_adapter
    if hasattr(load, "__wrapped__"):
        return

    @functools.wraps(load)
    def load_and_transpose(self: WorkerLoRAManager, lora_request: Any) -> Any:
        model = load(self, lora_request)
        transpose_b(model)
        return model

    WorkerLoRAManager._load_adapter = load_and_transpose


def transpose_b(model: Any) -> None:
    """Store each B (`[output, rank]`) transposed in memory; shapes and values stay the same."""
    for weights in model.loras.values():
        weights.lora_b = weights.lora_b.t().contiguous().t()
