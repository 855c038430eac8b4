"""What vLLM's LoRA layers call on a CPU.

vLLM symbols: `vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU` (the parent),
`vllm.lora.punica_wrapper.punica_base.PunicaWrapperABC` (the contract of each method),
`vllm.lora.layers.LoRAMapping`.

vLLM's own class gathers one whole matrix per token, and its index -1 ("no adapter") reads the last slot:
base-model rows of a mixed batch come back with some tenant's adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from server.engine.lora_cpu import loaded
from server.engine.lora_cpu.batch import EMPTY_PLAN, FLOAT32_LIMITS, HALF_LIMITS, BatchPlan, Block, plan_batch
from server.engine.lora_cpu.products import clear, collect, expand, shrink, spread
from server.engine.lora_cpu.rows import can_multiply, multiply, prepare
from server.engine.lora_cpu.weights import Expand, Shrink, Stacked, pack_expand, pack_shrink


class LoragatePunicaWrapperCPU(PunicaWrapperCPU):
    """LoRA products in which every row meets its own adapter and no other.

    One object serves all layers of a model. Weights are laid out at their first use; a layer's tensors
    keep their shapes and stay writable (see `weights`). Rows past the planned ones (padding) and all rows
    before the first `update_metadata` (profiling runs) are left as they are.
    """

    def __init__(
        self, max_num_batched_tokens: int, max_batches: int, device: torch.device | str, **kwargs: Any
    ) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device, **kwargs)
        dtype = getattr(kwargs.get("lora_config"), "lora_dtype", torch.float32)
        self._limits = HALF_LIMITS if dtype in (torch.bfloat16, torch.float16) else FLOAT32_LIMITS
        prepare(dtype)
        loaded.install()
        self._token_plan = EMPTY_PLAN
        self._prompt_plan: BatchPlan | None = EMPTY_PLAN
        self._shrinks: dict[int, Shrink] = {}
        self._expands: dict[int, Expand] = {}

    def update_metadata(
        self,
        mapping: LoRAMapping,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **kwargs: Any,
    ) -> None:
        """Plan the next steps: `mapping` names the adapter id of each token and of each sampled row."""
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        self._token_plan = plan_batch(self.token_lora_indices.numpy(), self._limits)
        # Planned when asked for: few models have an adapter on their output head.
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

        `buffer` is not used: what lies between the two products is never needed outside.
        """
        plan = self._token_plan
        if not plan.blocks:
            return
        x, y = _flat(x), _flat(y)
        if not add_inputs:
            for block in plan.blocks:
                clear(block, y)
        self._apply(plan, y, x, self._shrink(lora_a_stacked), self._expand(lora_b_stacked), scale)

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
        if not plan.blocks:
            return
        x, y = _flat(x), _flat(y)
        a, b = self._shrink((lora_a_stacked,)), self._expand((lora_b_stacked,))
        height = sum(b.heights)
        # A vocabulary may be padded, in the logits or in the adapter.
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
        """Add `x @ B.T` to the embeddings `y`; `x` holds the rows of A that the tokens picked."""
        self.add_expand(y, (x,), (lora_b_stacked,), (y.shape[-1],), add_inputs=add_inputs)

    def add_shrink(
        self,
        y: tuple[torch.Tensor, ...] | torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Stacked,
        scale: float,
        **kwargs: Any,
    ) -> None:
        """Add `x @ A.T * scale` to each slice's `y`; rows without an adapter stay as they are."""
        a = self._shrink(lora_a_stacked)
        dtype = torch.promote_types(x.dtype, a.weight.dtype)
        x, a = _flat(x).to(dtype), a.to(dtype)
        for block in self._token_plan.blocks:
            h = spread(block, shrink(block, x, a)).mul(scale)
            for part, own in zip(y, h.split(a.rank, 1), strict=True):
                _flat(part)[block.start : block.stop, : a.rank].add_(own)

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
        b = self._expand(lora_b_stacked)
        dtype = torch.promote_types(y.dtype, b.dtype)
        b = b.to(dtype)
        columns = _flat(y).narrow(1, offset_start, sum(b.heights))
        for block in self._token_plan.blocks:
            h = torch.cat([collect(block, _flat(part)) for part in x], dim=1).to(dtype)
            if not add_inputs:
                clear(block, columns)
            expand(block, h, b, columns)

    def _apply(
        self, plan: BatchPlan, y: torch.Tensor, x: torch.Tensor, a: Shrink, b: Expand, scale: float
    ) -> None:
        if len(y) < plan.rows:
            raise ValueError(f"the LoRA mapping names {plan.rows} rows, the layer got {len(y)}")
        if not x.dtype == y.dtype == a.weight.dtype == b.dtype:
            dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), b.dtype)
            x, a, b = x.to(dtype), a.to(dtype), b.to(dtype)
        blocks: Sequence[Block] = plan.blocks
        if plan.few is not None and scale == 1 and can_multiply(x, a, b, y):
            multiply(plan.few, x, a, b, y)
            blocks = plan.long
        for block in blocks:
            h = shrink(block, x, a)
            if scale != 1:
                h.mul_(scale)
            expand(block, h, b, y)

    def _shrink(self, stacked: Stacked) -> Shrink:
        found = self._shrinks.get(id(stacked[0]))
        if found is None or not found.holds(stacked):
            found = self._shrinks[id(stacked[0])] = pack_shrink(stacked)
        return found

    def _expand(self, stacked: Stacked) -> Expand:
        found = self._expands.get(id(stacked[0]))
        if found is None or not found.holds(stacked):
            found = self._expands[id(stacked[0])] = pack_expand(stacked)
        return found


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """View as `[rows, width]`; never a copy, since results are written through it."""
    return tensor if tensor.dim() == 2 else tensor.view(-1, tensor.shape[-1])
