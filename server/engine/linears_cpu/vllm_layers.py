"""Puts packed linear layers behind vLLM's layers on a CPU without bfloat16 instructions.

Leans on (vLLM 0.32): `vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm` (replaced),
`vllm.model_executor.kernels.linear._POSSIBLE_KERNELS` (ours is the first of the CPU's), `MPLinearKernel` and
`MPLinearLayerConfig` (the base class and its argument), `quant_utils.unpack_quantized_values_into_int32`,
`VocabParallelEmbedding`.

vLLM widens a checkpoint in bfloat16 to float32 on such a CPU, and a decode step reads all of it. Its kernel of 4-bit
weights needs AVX512.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.model_executor.kernels import linear as kernels
from vllm.model_executor.kernels.linear.mixed_precision.MPLinearKernel import (
    MPLinearKernel,
    MPLinearLayerConfig,
)
from vllm.model_executor.layers import utils as layer_utils
from vllm.model_executor.layers.quantization.utils.quant_utils import unpack_quantized_values_into_int32
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.platforms.interface import PlatformEnum
from vllm.scalar_type import scalar_types

from server.engine.linears_cpu import integer_weights
from server.engine.linears_cpu.awq_dtype import allow_float32
from server.engine.linears_cpu.capability import computes_four_bits, computes_packed
from server.engine.linears_cpu.packed_linear import PackedLinear, dense_linear, integer_linear

_HEAD_GROUP = 128
_stock_dispatch: Callable[..., None] = layer_utils.dispatch_cpu_unquantized_gemm


def install(*, rounded_head: bool) -> None:
    """Use packed layers in models that this process loads from now on; does nothing on other CPUs. Idempotent.

    Args:
        rounded_head: round the output layer to 8 bits, which a model whose other layers have 4 bits allows.
    """
    if not computes_packed():
        return

    def dispatch(layer: torch.nn.Module, remove_weight: bool) -> None:
        pack_layer(layer, remove_weight, rounded_head=rounded_head)

    layer_utils.dispatch_cpu_unquantized_gemm = dispatch
    if computes_four_bits():
        allow_float32()
        known = kernels._POSSIBLE_KERNELS[PlatformEnum.CPU]
        if PackedFourBitKernel not in known:
            known.insert(0, PackedFourBitKernel)


def pack_layer(layer: torch.nn.Module, remove_weight: bool, *, rounded_head: bool) -> None:
    """Replaces `dispatch_cpu_unquantized_gemm`: vLLM calls `layer.cpu_linear(x, weight, bias)` from now on."""
    weight = layer.weight
    linear = None
    if not weight.is_meta and weight.ndim == 2 and weight.dtype == torch.float32:
        linear = _pack(weight.data, rounded_head and isinstance(layer, VocabParallelEmbedding))
    if linear is None:
        _stock_dispatch(layer, remove_weight)
        return
    found = linear

    def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return found(x, bias)

    layer.cpu_linear = product
    if remove_weight:
        layer.weight = _nothing(weight.dtype)


def _pack(weight: torch.Tensor, rounded: bool) -> PackedLinear | None:
    outputs, inputs = weight.shape
    if rounded and computes_four_bits() and integer_weights.can_pack(outputs, inputs, _HEAD_GROUP):
        return integer_linear(integer_weights.round_to_eight_bits(weight, _HEAD_GROUP))
    return dense_linear(weight)


def _nothing(dtype: torch.dtype) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)


class PackedFourBitKernel(MPLinearKernel):
    """AWQ's 4-bit weights for vLLM's `choose_mp_linear_kernel`."""

    @classmethod
    def get_min_capability(cls) -> int:
        """No GPU is needed."""
        return -1

    @classmethod
    def can_implement(cls, c: MPLinearLayerConfig) -> tuple[bool, str | None]:
        """Whether the layer can be packed, or why not."""
        inputs, outputs = c.partition_weight_shape
        group = inputs if c.group_size == -1 else c.group_size
        if c.weight_type != scalar_types.uint4 or not c.zero_points:
            return False, "it multiplies AWQ's unsigned weights with zero points only"
        if not integer_weights.can_pack(outputs, inputs, group):
            return False, f"outputs {outputs} must be a multiple of 4, and the group size {group} of 64"
        return True, None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Pack the weights and release vLLM's, which `AutoAWQMarlinLinearMethod` has put into GPTQ's layout."""
        kind = self.config.weight_type
        weight, scales, zeros = self._get_weight_params(layer)
        codes = unpack_quantized_values_into_int32(weight.data, kind, 0).t().to(torch.uint8).contiguous()
        points = unpack_quantized_values_into_int32(zeros.data, kind, 0).to(torch.uint8).contiguous()
        packed = integer_weights.pack_four_bits(codes, points, scales.data.t().float().contiguous())
        layer.packed_linear = integer_linear(packed)
        for name in (self.w_q_name, self.w_s_name, self.w_zp_name):
            setattr(layer, name, _nothing(getattr(layer, name).dtype))

    def apply_weights(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`x @ weight.T + bias`."""
        product: Any = layer.packed_linear
        found: torch.Tensor = product(x, bias)
        return found
