"""The weights of all slots of one LoRA layer, laid out for the products.

vLLM symbols: `vllm.lora.layers.*.create_lora_weights`, `set_lora`, `reset_lora`.

vLLM keeps A as `[slots, 1, rank, input]` and B as `[slots, 1, output, rank]`, one tensor per slice of a
packed layer (q, k, v or gate, up). Products want the slices of A side by side and B transposed. Instead
of keeping copies, which would have to follow every swap, we move the *storage*: `Tensor.set_` lets
vLLM's own tensor objects look into ours. `set_lora` and `reset_lora` write through them by index, so a
swap lands here at once, nothing can be stale, and nothing is held twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

Stacked = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class Shrink:
    """A of every slot: `weight[slot]` is `[slices * rank, input]`."""

    stacked: torch.Tensor
    address: int
    weight: torch.Tensor
    rank: int

    def holds(self, stacked: Stacked) -> bool:
        """Whether vLLM's tensors still look into this storage."""
        return self.stacked is stacked[0] and self.address == stacked[0].data_ptr()


@dataclass(frozen=True, slots=True)
class Expand:
    """B of every slot: `weights[slice][slot]` is `[rank, output]`."""

    stacked: torch.Tensor
    address: int
    weights: tuple[torch.Tensor, ...]
    rank: int

    def holds(self, stacked: Stacked) -> bool:
        """Whether vLLM's tensors still look into this storage."""
        return self.stacked is stacked[0] and self.address == stacked[0].data_ptr()


def pack_shrink(stacked: Stacked) -> Shrink:
    """Move A (`[slots, 1, rank, input]` per slice) into one storage with the slices side by side."""
    slots, _, rank, width = stacked[0].shape
    with torch.inference_mode(False), torch.no_grad():
        packed = stacked[0].new_empty((slots, len(stacked), rank, width))
        for index, part in enumerate(stacked):
            packed[:, index].copy_(part[:, 0])
            strides = (len(stacked) * rank * width, rank * width, width, 1)
            part.set_(packed.untyped_storage(), index * rank * width, part.shape, strides)
    weight = packed.view(slots, len(stacked) * rank, width)
    return Shrink(stacked[0], stacked[0].data_ptr(), weight, rank)


def pack_expand(stacked: Stacked) -> Expand:
    """Move B (`[slots, 1, output, rank]` per slice) into storages of transposed matrices."""
    weights = tuple(_transpose_storage(part) for part in stacked)
    return Expand(stacked[0], stacked[0].data_ptr(), weights, stacked[0].shape[-1])


def _transpose_storage(part: torch.Tensor) -> torch.Tensor:
    slots, _, height, rank = part.shape
    with torch.inference_mode(False), torch.no_grad():
        packed = part.new_empty((slots, rank, height))
        packed.copy_(part[:, 0].transpose(1, 2))
        part.set_(packed.untyped_storage(), 0, part.shape, (rank * height, rank * height, 1, height))
    return packed
