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
from itertools import groupby

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

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def to(self, dtype: torch.dtype) -> Shrink:
        """Copy into another dtype, for layers whose activations have one of their own."""
        return Shrink(self.stacked, self.address, self.weight.to(dtype), self.rank)


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring slices of the same height: `weight` is `[slots, slices, rank, height]`.

    Their outputs begin at column `column` of the layer's and are computed together.
    """

    weight: torch.Tensor
    column: int


@dataclass(frozen=True, slots=True)
class Expand:
    """B of every slot, cut into as few parts as the heights of the slices allow."""

    stacked: torch.Tensor
    address: int
    parts: tuple[Part, ...]

    def holds(self, stacked: Stacked) -> bool:
        """Whether vLLM's tensors still look into this storage."""
        return self.stacked is stacked[0] and self.address == stacked[0].data_ptr()

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].weight.dtype

    def to(self, dtype: torch.dtype) -> Expand:
        """Copy into another dtype, for layers whose activations have one of their own."""
        parts = tuple(Part(part.weight.to(dtype), part.column) for part in self.parts)
        return Expand(self.stacked, self.address, parts)


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
    """Move B (`[slots, 1, output, rank]` per slice) into transposed storages, one per part."""
    parts = []
    column = 0
    for height, slices in groupby(stacked, key=lambda part: part.shape[2]):
        part = Part(_transpose_storage(tuple(slices)), column)
        parts.append(part)
        column += height * part.weight.shape[1]
    return Expand(stacked[0], stacked[0].data_ptr(), tuple(parts))


def _transpose_storage(slices: Stacked) -> torch.Tensor:
    slots, _, height, rank = slices[0].shape
    with torch.inference_mode(False), torch.no_grad():
        packed = slices[0].new_empty((slots, len(slices), rank, height))
        for index, part in enumerate(slices):
            packed[:, index].copy_(part[:, 0].transpose(1, 2))
            step = len(slices) * rank * height
            part.set_(packed.untyped_storage(), index * rank * height, part.shape, (step, step, 1, height))
    return packed
