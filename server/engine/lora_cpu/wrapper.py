"""The LoRA products that vLLM's layers call on a CPU.

Leans on (vLLM 0.32): `vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU` (the parent),
`vllm.lora.punica_wrapper.punica_base.PunicaWrapperABC` (the contract of each method),
`vllm.lora.layers.LoRAMapping`.

vLLM's own class gathers one whole matrix per token, and its index -1 ("no adapter") reads the last slot, so that
base-model rows of a mixed batch get some tenant's adapter applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from server.engine.lora_cpu import cpu_cache
from server.engine.lora_cpu.batch import (
    EMPTY_PLAN,
    FLOAT32_LIMITS,
    HALF_LIMITS,
    BatchPlan,
    Segment,
    plan_batch,
)
from server.engine.lora_cpu.fused_kernel import can_multiply, multiply, prepare
from server.engine.lora_cpu.segment_operations import clear, expand, gather, scatter, shrink
from server.engine.lora_cpu.weights import PackedA, PackedB, Stacked, pack_a, pack_b


class LoragatePunicaWrapperCPU(PunicaWrapperCPU):
    """LoRA products that apply to every row its own adapter and no other.

    One object serves all layers of a model. Weights are packed at their first use; a layer's tensors keep their
    shapes and stay writable (see `weights`). Rows after the planned ones (padding), and all rows before the first
    `update_metadata` (profiling runs), stay unchanged.
    """

    def __init__(
        self, max_num_batched_tokens: int, max_batches: int, device: torch.device | str, **kwargs: Any
    ) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device, **kwargs)
        dtype = getattr(kwargs.get("lora_config"), "lora_dtype", torch.float32)
        self._limits = HALF_LIMITS if dtype in (torch.bfloat16, torch.float16) else FLOAT32_LIMITS
        prepare(dtype)
        cpu_cache.install()
        self._token_plan = EMPTY_PLAN
        self._prompt_plan: BatchPlan | None = EMPTY_PLAN
        self._packed_as: dict[int, PackedA] = {}
        self._packed_bs: dict[int, PackedB] = {}

    def update_metadata(
        self,
        mapping: LoRAMapping,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **kwargs: Any,
    ) -> None:
        """Plan the next steps: `mapping` holds the adapter id of each token and of each sampled row."""
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        self._token_plan = plan_batch(self.token_lora_indices.numpy(), self._limits)
        # Planned on first use: few models have an adapter on their output head.
        self._prompt_plan = None

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Stacked,
        lora_b_stacked: Stacked,
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[torch.Tensor, ...] | None = None,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        """Add `(x @ A.T) @ B.T * scale` to `y` in place, each slice at its own columns.

        `buffer` is not used: nothing outside needs the result of the first product.
        """
        plan = self._token_plan
        if not plan.segments:
            return
        x, y = _flat(x), _flat(y)
        if not add_inputs:
            for segment in plan.segments:
                clear(segment, y)
        self._apply(plan, y, x, self._pack_a(lora_a_stacked), self._pack_b(lora_b_stacked), scale)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        *,
        buffer: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """Add `(x @ A.T) @ B.T * scale` to the logits `y`, with one row per sampled token."""
        plan = self._prompt_plan
        if plan is None:
            plan = self._prompt_plan = plan_batch(self.sampler_indices.numpy(), self._limits)
        if not plan.segments:
            return
        x, y = _flat(x), _flat(y)
        a, b = self._pack_a((lora_a_stacked,)), self._pack_b((lora_b_stacked,))
        height = sum(b.heights)
        # The vocabulary may be padded in the logits or in the adapter.
        target = y[:, :height] if y.shape[1] >= height else y.new_zeros((len(y), height))
        self._apply(plan, target, x, a, b, scale)
        if y.shape[1] < height:
            y.add_(target[:, : y.shape[1]])

    def add_lora_embedding(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        """Add `x @ B.T` to the embeddings `y`; `x` holds the rows of A that the tokens selected."""
        self.add_expand(y, (x,), (lora_b_stacked,), (y.shape[-1],), add_inputs=add_inputs)

    def add_shrink(
        self,
        y: tuple[torch.Tensor, ...] | torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Stacked,
        scale: float,
        **kwargs: Any,
    ) -> None:
        """Add `x @ A.T * scale` to each slice's `y`; rows without an adapter stay unchanged."""
        a = self._pack_a(lora_a_stacked)
        dtype = torch.promote_types(x.dtype, a.weight.dtype)
        x, a = _flat(x).to(dtype), a.to(dtype)
        for segment in self._token_plan.segments:
            h = scatter(segment, shrink(segment, x, a)).mul(scale)
            for part, own in zip(y, h.split(a.rank, 1), strict=True):
                _flat(part)[segment.start : segment.stop, : a.rank].add_(own)

    def add_expand(
        self,
        y: torch.Tensor,
        x: tuple[torch.Tensor, ...] | torch.Tensor,
        lora_b_stacked: Stacked,
        output_slices: tuple[int, ...],
        offset_start: int = 0,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        """Add each slice's `x @ B.T` to `y` from column `offset_start` on, one slice after the other."""
        b = self._pack_b(lora_b_stacked)
        dtype = torch.promote_types(y.dtype, b.dtype)
        b = b.to(dtype)
        columns = _flat(y).narrow(1, offset_start, sum(b.heights))
        for segment in self._token_plan.segments:
            h = torch.cat([gather(segment, _flat(part)) for part in x], dim=1).to(dtype)
            if not add_inputs:
                clear(segment, columns)
            expand(segment, h, b, columns)

    def _apply(
        self, plan: BatchPlan, y: torch.Tensor, x: torch.Tensor, a: PackedA, b: PackedB, scale: float
    ) -> None:
        if len(y) < plan.rows:
            raise ValueError(f"The LoRA mapping covers {plan.rows} rows, but the layer got {len(y)}.")
        if not x.dtype == y.dtype == a.weight.dtype == b.dtype:
            dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), b.dtype)
            x, a, b = x.to(dtype), a.to(dtype), b.to(dtype)
        segments: Sequence[Segment] = plan.segments
        if plan.scattered is not None and scale == 1 and can_multiply(x, a, b, y):
            multiply(plan.scattered, x, a, b, y)
            segments = plan.long
        for segment in segments:
            h = shrink(segment, x, a)
            if scale != 1:
                h.mul_(scale)
            expand(segment, h, b, y)

    def _pack_a(self, stacked: Stacked) -> PackedA:
        found = self._packed_as.get(id(stacked[0]))
        if found is None or not found.holds(stacked):
            found = self._packed_as[id(stacked[0])] = pack_a(stacked)
        return found

    def _pack_b(self, stacked: Stacked) -> PackedB:
        found = self._packed_bs.get(id(stacked[0]))
        if found is None or not found.holds(stacked):
            found = self._packed_bs[id(stacked[0])] = pack_b(stacked)
        return found


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """View as `[rows, width]`; never a copy, because results are written through the view."""
    return tensor if tensor.dim() == 2 else tensor.view(-1, tensor.shape[-1])
