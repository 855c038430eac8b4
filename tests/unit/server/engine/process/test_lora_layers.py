"""Which layers of an adapter a worker changes, by the names that the adapter has for them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from vllm.lora.lora_weights import LoRALayerWeights, PackedLoRALayerWeights
from vllm.utils.import_utils import resolve_obj_by_qualname
from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_worker import Worker

from adapters.models import EngineAdapter
from server.engine.process.lora_layers import EXTENSION, LoraLayers, explain_left_out, lora_layers
from tests.unit.adapters.building import BASE, write_adapter

LAYER = "model.layers.0"
QKV = [f"{LAYER}.self_attn.{name}_proj" for name in "qkv"]
O_PROJ = f"{LAYER}.self_attn.o_proj"


def factors(module: str) -> LoRALayerWeights:
    return LoRALayerWeights(module, 4, 8, torch.ones(4, 8), torch.ones(8, 4))


def worker(loras: dict[str, Any], modules: list[str]) -> LoraLayers:
    """A worker with one loaded adapter, id 7, whose model has LoRA on `modules`."""
    manager = SimpleNamespace(
        modules=dict.fromkeys(modules),
        packed_modules={f"{LAYER}.self_attn.qkv_proj": QKV},
        list_adapters=lambda: {7: SimpleNamespace(loras=loras)},
    )
    made = LoraLayers()
    made.model_runner = SimpleNamespace(lora_manager=SimpleNamespace(_adapter_manager=manager))
    return made


class Client:
    """An engine with these workers."""

    def __init__(self, *workers: LoraLayers) -> None:
        self.workers = workers

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        return [getattr(each, method)(*args) for each in self.workers]


def test_a_packed_layer_counts_for_the_parts_that_the_adapter_has() -> None:
    packed = PackedLoRALayerWeights.pack([factors(QKV[0]), None, factors(QKV[2])])
    loras = {f"{LAYER}.self_attn.qkv_proj": packed, O_PROJ: factors(O_PROJ)}
    whole = worker(loras, [f"{LAYER}.self_attn.qkv_proj", O_PROJ])
    assert whole.loragate_lora_layers() == [*QKV, O_PROJ]
    assert whole.loragate_applied_layers(7) == [QKV[0], QKV[2], O_PROJ]
    assert whole.loragate_applied_layers(8) == []
    narrow = worker(loras, [f"{LAYER}.self_attn.qkv_proj"])
    assert narrow.loragate_applied_layers(7) == [QKV[0], QKV[2]]


async def test_the_workers_of_a_pipeline_share_an_adapter(tmp_path: Path) -> None:
    adapter = EngineAdapter(7, "acme/x@1#0", write_adapter(tmp_path))
    modules = list(BASE.modules())
    halves = [{name: factors(name) for name in modules if f".{layer}." in name} for layer in (0, 1)]
    client = Client(*(worker({**halves[0], **halves[1]}, list(half)) for half in halves))
    assert await lora_layers(client) == frozenset(modules)
    assert await explain_left_out(client, adapter) is None
    told = await explain_left_out(Client(client.workers[0]), adapter)
    assert told is not None and "to 7 of the adapter's 14 layers" in told
    nothing = await explain_left_out(Client(worker({}, [])), adapter)
    assert nothing is not None and "to 0 of the adapter's 14 layers" in nothing


def test_vllm_finds_the_class_and_it_hides_nothing_of_a_worker() -> None:
    """`worker_extension_cls`; vLLM refuses an attribute that its worker has already."""
    assert resolve_obj_by_qualname(EXTENSION) is LoraLayers
    own = {name for name in vars(LoraLayers) if not name.startswith("__")}
    assert own and not any(hasattr(each, name) for each in (CPUWorker, Worker) for name in own)
