"""Tells which layers of the model a worker changes for an adapter; vLLM leaves layers out without an error.

vLLM adds `LoraLayers` to its worker class (`worker_extension_cls`), so that the two methods can be called in every
worker. They run between two steps and only read names.

Leans on (vLLM 0.32): ParallelConfig.worker_extension_cls, AsyncLLM.collective_rpc,
LoRAModelRunnerMixin.lora_manager (WorkerLoRAManager._adapter_manager), LoRAModelManager (modules, packed_modules,
list_adapters), LoRAModel.loras, PackedLoRALayerWeights (lora_a, lora_b: lists in the order of packed_modules).
"""

from __future__ import annotations

import asyncio
from typing import Any

from adapters.artifact import changed_layers, explain_unapplied
from adapters.models import EngineAdapter

EXTENSION = "server.engine.process.lora_layers.LoraLayers"
"""A dotted name, because vLLM resolves it in its workers."""


class LoraLayers:
    """The methods that vLLM's worker class gets."""

    model_runner: Any

    def loragate_lora_layers(self) -> list[str]:
        """Paths of the layers of this worker to which an adapter can be applied, as adapters name them."""
        manager = self.model_runner.lora_manager._adapter_manager
        packed = manager.packed_modules
        return [part for name in manager.modules for part in packed.get(name, [name])]

    def loragate_applied_layers(self, engine_id: int) -> list[str]:
        """Paths of the layers of this worker to which a loaded adapter is applied; empty for an unknown id."""
        manager = self.model_runner.lora_manager._adapter_manager
        adapter = manager.list_adapters().get(engine_id)
        if adapter is None:
            return []
        found = []
        for name, weights in adapter.loras.items():
            if name not in manager.modules:
                continue
            if name in manager.packed_modules:
                parts = zip(manager.packed_modules[name], weights.lora_a, weights.lora_b, strict=True)
                found += [part for part, a, b in parts if a is not None and b is not None]
            elif weights.lora_a is not None and weights.lora_b is not None:
                found.append(name)
        return found


async def lora_layers(client: Any) -> frozenset[str]:
    """The layers to which a running `AsyncLLM` applies adapters, of all its workers."""
    return _joined(await client.collective_rpc("loragate_lora_layers"))


async def explain_left_out(client: Any, adapter: EngineAdapter) -> str | None:
    """Why a running `AsyncLLM` serves only a part of an adapter that it has loaded; None if it serves all of it."""
    answers = await client.collective_rpc("loragate_applied_layers", args=(adapter.engine_id,))
    return explain_unapplied(await asyncio.to_thread(changed_layers, adapter.path), _joined(answers))


def _joined(answers: list[list[str]]) -> frozenset[str]:
    return frozenset(name for answer in answers for name in answer)
