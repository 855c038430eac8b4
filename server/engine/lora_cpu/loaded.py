"""Adapters that are loaded and have no slot: kept as the slots keep them.

vLLM symbols: `vllm.lora.worker_manager.WorkerLoRAManager._load_adapter` (wrapped), `vllm.lora.lora_model.LoRAModel`
(`loras`), `vllm.lora.lora_weights.LoRALayerWeights` (`lora_b`).

An adapter that gets a slot is copied into it, layer by layer, while every request waits. `weights` keeps B
transposed; copying from a B that is not takes twice as long.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm.lora.worker_manager import WorkerLoRAManager


def install() -> None:
    """Lay out every adapter that vLLM loads from now on. Idempotent."""
    load: Callable[..., Any] = WorkerLoRAManager._load_adapter
    if hasattr(load, "__wrapped__"):
        return

    @functools.wraps(load)
    def load_and_lay_out(self: WorkerLoRAManager, lora_request: Any) -> Any:
        model = load(self, lora_request)
        lay_out(model)
        return model

    WorkerLoRAManager._load_adapter = load_and_lay_out


def lay_out(model: Any) -> None:
    """Transpose each B (`[output, rank]`) in memory; the tensors look the same from outside."""
    for weights in model.loras.values():
        weights.lora_b = weights.lora_b.t().contiguous().t()
