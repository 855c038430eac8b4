"""The weights of all slots of one LoRA layer, in the memory order that the products need.

Leans on (vLLM 0.32): `vllm.lora.layers.*.create_lora_weights`, `set_lora`, `reset_lora`.

vLLM stores A as `[slots, 1, rank, input]` and B as `[slots, 1, output, rank]`, one tensor per slice of a
packed layer (q, k, v or gate, up). The products need the slices of A side by side and B transposed. Copies would
have to be updated at every swap, so we move the *storage* instead: `Tensor.set_` makes vLLM's own tensor objects
views of our storage. `set_lora` and `reset_lora` write through these views by index, so a swap takes effect here
at once, no copy can be stale, and no weight is stored twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeVar

import torch

Stacked = tuple[torch.Tensor, ...]
Key = TypeVar("Key")
View = TypeVar("View")

VIEWS_KEPT = 32
"""Number of cached views of slot ranges per layer: creating one costs as much as a small product."""


@dataclass(frozen=True, slots=True)
class _Packed:
    stacked: torch.Tensor
    address: int

    def holds(self, stacked: Stacked) -> bool:
        """Whether vLLM's tensors are still views of this storage."""
        return self.stacked is stacked[0] and self.address == stacked[0].data_ptr()


@dataclass(frozen=True, slots=True)
class PackedA(_Packed):
    """A of every slot: `weight[slot]` is `[slices * rank, input]`."""

    weight: torch.Tensor
    rank: int
    _views: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    _slot_views: dict[int, torch.Tensor] = field(default_factory=dict)

    def of(self, start: int, stop: int) -> torch.Tensor:
        """View the slots `start:stop` as `[slots, input, slices * rank]`."""
        view = self._views.get((start, stop))
        if view is None:
            view = _cache(self._views, (start, stop), self.weight[start:stop].transpose(1, 2))
        return view

    def of_slot(self, slot: int) -> torch.Tensor:
        """View one slot as `[input, slices * rank]`."""
        view = self._slot_views.get(slot)
        if view is None:
            view = _cache(self._slot_views, slot, self.weight[slot].t())
        return view

    def to(self, dtype: torch.dtype) -> PackedA:
        """Copy into another dtype, for layers whose activations have a different dtype."""
        return PackedA(self.stacked, self.address, self.weight.to(dtype), self.rank)


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring slices of the same height: `weight` is `[slots, slices, rank, height]`."""

    weight: torch.Tensor
    slices: int
    rank: int
    height: int
    _views: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    _slot_views: dict[int, Stacked] = field(default_factory=dict)

    def of(self, start: int, stop: int) -> torch.Tensor:
        """View the slots `start:stop` as `[slots * slices, rank, height]`."""
        view = self._views.get((start, stop))
        if view is None:
            view = self.weight[start:stop].view(-1, self.rank, self.height)
            _cache(self._views, (start, stop), view)
        return view

    def of_slot(self, slot: int) -> Stacked:
        """View the slices of one slot, each `[rank, height]`."""
        views = self._slot_views.get(slot)
        if views is None:
            views = _cache(self._slot_views, slot, self.weight[slot].unbind())
        return views


@dataclass(frozen=True, slots=True)
class PackedB(_Packed):
    """B of every slot, in one part per group of neighbouring slices with the same height."""

    parts: tuple[Part, ...]
    ranks: tuple[int, ...]
    """The number of columns of `h` that each part reads."""
    heights: tuple[int, ...]
    """The number of columns of `y` that each part writes."""

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].weight.dtype

    def to(self, dtype: torch.dtype) -> PackedB:
        """Copy into another dtype, for layers whose activations have a different dtype."""
        return _packed_b(self.stacked, self.address, tuple(part.weight.to(dtype) for part in self.parts))


def pack_a(stacked: Stacked) -> PackedA:
    """Move A (`[slots, 1, rank, input]` per slice) into one storage with the slices side by side."""
    slots, _, rank, width = stacked[0].shape
    with torch.inference_mode(False), torch.no_grad():
        packed = stacked[0].new_empty((slots, len(stacked), rank, width))
        for index, part in enumerate(stacked):
            packed[:, index].copy_(part[:, 0])
            step = len(stacked) * rank * width
            part.set_(packed.untyped_storage(), index * rank * width, part.shape, (step, step, width, 1))
        return PackedA(stacked[0], stacked[0].data_ptr(), packed.view(slots, -1, width), rank)


def pack_b(stacked: Stacked) -> PackedB:
    """Move B (`[slots, 1, output, rank]` per slice) into transposed storages, one per part."""
    with torch.inference_mode(False), torch.no_grad():
        packed = tuple(
            _transpose_storage(tuple(slices)) for _, slices in groupby(stacked, lambda part: part.shape[2])
        )
    return _packed_b(stacked[0], stacked[0].data_ptr(), packed)


def _packed_b(stacked: torch.Tensor, address: int, packed: Stacked) -> PackedB:
    parts = tuple(Part(weight, *weight.shape[1:]) for weight in packed)
    ranks = tuple(part.slices * part.rank for part in parts)
    heights = tuple(part.slices * part.height for part in parts)
    return PackedB(stacked, address, parts, ranks, heights)


def _transpose_storage(slices: Stacked) -> torch.Tensor:
    slots, _, height, rank = slices[0].shape
    packed = slices[0].new_empty((slots, len(slices), rank, height))
    for index, part in enumerate(slices):
        packed[:, index].copy_(part[:, 0].transpose(1, 2))
        step = len(slices) * rank * height
        part.set_(packed.untyped_storage(), index * rank * height, part.shape, (step, step, 1, height))
    return packed


def _cache(views: dict[Key, View], key: Key, view: View) -> View:
    if len(views) >= VIEWS_KEPT:
        views.clear()
    views[key] = view
    return view
