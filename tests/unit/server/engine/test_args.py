"""What --engine-args may say, and what vLLM gets of it."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.model_executor.layers.quantization.auto_awq import AutoAWQConfig
from vllm.platforms.cpu import CpuPlatform
from vllm.platforms.interface import UnspecifiedPlatform

import demo
from server.config.settings import load
from server.engine import args as engine_arguments
from server.engine.args import engine_args
from server.engine.linears_cpu import capability
from server.errors import SettingsError


def made(arguments: dict[str, Any]) -> AsyncEngineArgs:
    return engine_args(load({"model": str(demo.MODEL_DIR), "engine_args": json.dumps(arguments)}))


def test_a_build_for_gpus_without_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_arguments, "current_platform", UnspecifiedPlatform())
    with pytest.raises(SettingsError, match="no GPU is visible to this process"):
        made({})


def test_plain_values_and_objects_without_a_class_go_through() -> None:
    speculation = {"method": "ngram", "num_speculative_tokens": 2}
    args = made({"block_size": 32, "speculative_config": speculation})
    assert (args.block_size, args.speculative_config) == (32, speculation)


def test_an_object_becomes_the_config_that_vllm_wants() -> None:
    args = made({"structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True}})
    assert args.structured_outputs_config == StructuredOutputsConfig("xgrammar", disable_any_whitespace=True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"max_loras": 3}, "--engine-args max_loras: use --max-loras"),
        ({"enable_lora": False}, "--engine-args enable_lora: loragate sets this itself"),
        ({"block_sise": 16}, "--engine-args block_sise: vLLM has no such argument. Did you mean block_size?"),
        (
            {"structured_outputs_config": {"bakend": "auto"}},
            "--engine-args structured_outputs_config.bakend: Unexpected keyword argument",
        ),
        (
            {"structured_outputs_config": {"disable_any_whitespace": True}},
            "--engine-args structured_outputs_config: disable_any_whitespace is only supported for xgrammar",
        ),
        (
            {"structured_outputs_config": {"backend": "x"}},
            "structured_outputs_config.backend: Input should be",
        ),
    ],
)
def test_what_it_may_not_say(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        made(arguments)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("method", "has_avx512", "has_ours", "dtype"),
    [
        ("awq", True, False, "auto"),
        ("awq", False, True, "float32"),
        ("awq", False, False, None),
        ("gptq", True, False, "auto"),
        ("gptq", False, True, None),
    ],
)
@pytest.mark.parametrize("told_by", ["flag", "config"])
def test_four_bits_are_refused_on_a_cpu_without_a_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told_by: str, method: str, has_avx512: bool, has_ours: bool,
    dtype: str | None,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cpu._is_avx512_supported", lambda: has_avx512)
    monkeypatch.setattr("server.engine.args.computes_four_bits", lambda: has_ours)
    monkeypatch.setattr("server.engine.args.accept_awq", lambda: has_ours)
    config = json.loads((demo.MODEL_DIR / "config.json").read_text())
    if told_by == "config":
        config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = load({"model": str(tmp_path)} | ({"quantization": method} if told_by == "flag" else {}))
    if dtype is not None:
        found = engine_args(settings)
        assert (found.quantization, found.dtype) == (settings.quantization, dtype)
    else:
        with pytest.raises(
            SettingsError, match=f"{method} weights need a CPU with AVX512, which this one lacks"
        ):
            engine_args(settings)


def test_accepting_awq_lets_vllm_take_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = AutoAWQConfig.__dict__["get_supported_act_dtypes"]
    monkeypatch.setattr(AutoAWQConfig, "get_supported_act_dtypes", stock)  # puts it back
    monkeypatch.setattr(capability, "computes_four_bits", lambda: False)
    assert not capability.accept_awq() and torch.float32 not in AutoAWQConfig.get_supported_act_dtypes()
    monkeypatch.setattr(capability, "computes_four_bits", lambda: True)
    assert capability.accept_awq() and torch.float32 in AutoAWQConfig.get_supported_act_dtypes()


def test_vllms_kernels_are_chosen_by_the_same_question() -> None:
    """server/engine/args.py"""
    assert "torch.cpu._is_avx512_supported()" in inspect.getsource(CpuPlatform.import_kernels)
