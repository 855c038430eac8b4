"""vLLM's CPU worker, which reports progress within a step and compiles nothing while it serves.

On a slow CPU one step can take minutes. And vLLM compiles a function when the first log-probabilities are asked for:
ten seconds in which no request gets a token.
Leans on (vLLM 0.32): v1.worker.cpu_worker.CPUWorker (`load_model`, `get_model`); `batched_count_greater_than` in
v1.sample.sampler. vLLM gets the worker as the engine argument `worker_cls` (`server.engine.args.CPU_WORKER`). On a
CPU with LoRA vLLM runs the model eagerly, so that hooks of modules are called.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, int32, nn
from vllm.v1.sample import sampler
from vllm.v1.worker.cpu_worker import CPUWorker

from server.engine.process.heartbeat import beat


class BeatingCPUWorker(CPUWorker):
    """`CPUWorker` that beats at each layer of the model."""

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        """Load the model, with layers that are fast for few rows, then watch its layers."""
        # NOTE: vLLM's `register_kernels` looks at all modules when a worker begins, and fails on llvmlite's.
        from server.engine.linears_cpu.norms import use_compiled_norms
        from server.engine.linears_cpu.vllm_layers import install

        install(rounded_head=self.model_config.quantization is not None)
        super().load_model(load_dummy_weights=load_dummy_weights)
        vars(sampler).update(batched_count_greater_than=count_not_less)
        use_compiled_norms(self.get_model())
        beat_at_layers(self.get_model())


def count_not_less(rows: Tensor, values: Tensor) -> Tensor:
    """How many elements of each row are at least its value: `batched_count_greater_than`, not compiled.

    Args:
        rows: [rows, elements].
        values: [rows, 1].

    Returns:
        int64 [rows].
    """
    return (rows >= values).sum(-1, dtype=int32).long()  # twice as fast as a sum in int64


def beat_at_layers(model: nn.Module) -> int:
    """Beat whenever a layer of the model begins; returns the number of layers.

    A layer is a member of a list of modules that is not inside another one: the blocks of a transformer.
    """
    layers = _layers(model)
    for layer in layers:
        layer.register_forward_pre_hook(_on_layer)
    return len(layers)


def _layers(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, nn.ModuleList):
        return list(module)
    return [layer for child in module.children() for layer in _layers(child)]


def _on_layer(module: nn.Module, inputs: Any) -> None:
    beat()
