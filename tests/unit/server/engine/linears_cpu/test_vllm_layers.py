"""Our layers behind vLLM's, and the symbols of vLLM 0.32 that they replace."""

from __future__ import annotations

import inspect

import pytest
import torch
from vllm.model_executor import parameter
from vllm.model_executor.kernels import linear as kernels
from vllm.model_executor.kernels.linear.mixed_precision.MPLinearKernel import (
    MPLinearKernel,
    MPLinearLayerConfig,
)
from vllm.model_executor.layers import linear, utils, vocab_parallel_embedding
from vllm.model_executor.layers.quantization import auto_awq
from vllm.model_executor.layers.quantization.auto_awq import AutoAWQConfig
from vllm.platforms.interface import PlatformEnum
from vllm.scalar_type import scalar_types

from adapters.training.quantization.awq_weights import dequantize
from benchmarks.lora.decode.four_bit_model import quantize
from server.engine.linears_cpu import vllm_layers
from server.engine.linears_cpu.awq_dtype import allow_float32
from server.engine.linears_cpu.capability import computes_four_bits
from server.engine.linears_cpu.vllm_layers import PackedFourBitKernel, install, pack_layer

pytestmark = pytest.mark.slow  # compiles the loops


def make_layer(weight: torch.Tensor) -> torch.nn.Module:
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    return layer


def test_contract_vllm_asks_for_the_dispatch_at_each_layer() -> None:
    """server/engine/linears_cpu/vllm_layers.py replaces the function in its module."""
    assert list(inspect.signature(utils.dispatch_cpu_unquantized_gemm).parameters) == [
        "layer",
        "remove_weight",
    ]
    for module in (linear, vocab_parallel_embedding):
        source = inspect.getsource(module)
        assert "from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm" in source
    assert "layer.cpu_linear(x, weight, bias)" in inspect.getsource(utils.cpu_unquantized_gemm)


def test_contract_the_kernels_of_4_bit_weights() -> None:
    """server/engine/linears_cpu/vllm_layers.py"""
    assert isinstance(kernels._POSSIBLE_KERNELS[PlatformEnum.CPU], list)
    assert "_POSSIBLE_KERNELS.get(current_platform._enum" in inspect.getsource(
        kernels.choose_mp_linear_kernel
    )
    assert PackedFourBitKernel.__abstractmethods__ == frozenset()
    assert list(inspect.signature(MPLinearKernel.apply_weights).parameters) == ["self", "layer", "x", "bias"]
    source = inspect.getsource(auto_awq.AutoAWQMarlinLinearMethod)
    assert "_convert_awq_to_standard_format" in source and "choose_mp_linear_kernel" in source


def test_contract_float32_is_accepted_for_awq(monkeypatch: pytest.MonkeyPatch) -> None:
    """server/engine/linears_cpu/awq_dtype.py"""
    stock = AutoAWQConfig.__dict__["get_supported_act_dtypes"]
    monkeypatch.setattr(AutoAWQConfig, "get_supported_act_dtypes", stock)  # puts it back
    allow_float32()
    assert AutoAWQConfig.get_supported_act_dtypes() == [torch.half, torch.bfloat16, torch.float32]


def test_a_layer_of_bfloat16_values_is_packed_and_its_weight_released() -> None:
    weight = torch.randn(64, 128).bfloat16().float()
    layer = make_layer(weight.clone())
    pack_layer(layer, remove_weight=True, rounded_head=False)
    x = torch.randn(3, 128)
    assert layer.weight.numel() == 0
    assert torch.allclose(layer.cpu_linear(x, layer.weight, None), x @ weight.t(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weight", [torch.randn(64, 128), torch.randn(64, 128).bfloat16(), torch.randn(6, 8)])
def test_other_layers_stay_vllms(weight: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.nn.Module] = []
    monkeypatch.setattr(vllm_layers, "_stock_dispatch", lambda layer, remove: asked.append(layer))
    layer = make_layer(weight)
    pack_layer(layer, remove_weight=True, rounded_head=True)
    assert asked == [layer] and layer.weight.shape == weight.shape


def test_installing_replaces_the_dispatch_only_where_it_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = utils.dispatch_cpu_unquantized_gemm
    monkeypatch.setattr(utils, "dispatch_cpu_unquantized_gemm", stock)
    known = list(kernels._POSSIBLE_KERNELS[PlatformEnum.CPU])
    monkeypatch.setitem(kernels._POSSIBLE_KERNELS, PlatformEnum.CPU, known)
    monkeypatch.setattr(vllm_layers, "allow_float32", lambda: None)
    monkeypatch.setattr(vllm_layers, "computes_packed", lambda: False)
    install(rounded_head=False)
    assert utils.dispatch_cpu_unquantized_gemm is stock and PackedFourBitKernel not in known
    monkeypatch.setattr(vllm_layers, "computes_packed", lambda: True)
    monkeypatch.setattr(vllm_layers, "computes_four_bits", lambda: True)
    install(rounded_head=False)
    install(rounded_head=False)
    assert utils.dispatch_cpu_unquantized_gemm is not stock and known.count(PackedFourBitKernel) == 1


def config(group: int = 128, *, zero_points: bool = True, outputs: int = 256) -> MPLinearLayerConfig:
    shape = (256, outputs)
    return MPLinearLayerConfig(shape, shape, scalar_types.uint4, torch.float32, group, zero_points)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (config(), None),
        (config(64), None),
        (config(-1), None),
        (config(32), "multiple"),
        (config(outputs=30), "multiple"),
        (config(zero_points=False), "zero points"),
    ],
)
def test_which_layers_of_4_bits_are_multiplied(asked: MPLinearLayerConfig, reason: str | None) -> None:
    possible, why = PackedFourBitKernel.can_implement(asked)
    assert possible == (reason is None) and (reason or "") in (why or "")


@pytest.mark.skipif(not computes_four_bits(), reason="this CPU has vLLM's own kernel of 4-bit weights")
@pytest.mark.parametrize("rows", [1, 7, 150])
def test_a_layer_in_awqs_layout_is_multiplied_as_what_it_stands_for(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through vLLM's own conversion; the oracle reads the checkpoint's tensors with other code."""
    monkeypatch.setattr(parameter, "get_tensor_model_parallel_rank", lambda: 0)
    monkeypatch.setattr(parameter, "get_tensor_model_parallel_world_size", lambda: 1)
    stored = quantize(torch.randn(256, 384) * 0.02)
    layer = torch.nn.Module()
    for name, tensor in stored.items():
        layer.register_parameter(name, torch.nn.Parameter(tensor.clone(), requires_grad=False))
    auto_awq._convert_awq_to_standard_format(layer, "qweight", "qzeros", 4)
    kernel = PackedFourBitKernel(config(), "qweight", "scales", "qzeros")
    kernel.process_weights_after_loading(layer)
    assert not any(getattr(layer, name).numel() for name in stored)
    x, bias = torch.randn(rows, 384), torch.randn(256)
    wanted = x.double() @ dequantize(**stored).double().t() + bias.double()
    found = kernel.apply_weights(layer, x, bias)
    assert float((found - wanted).norm() / wanted.norm()) < 6e-5
