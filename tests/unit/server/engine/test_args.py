"""What --engine-args may say, and what vLLM gets of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs

import demo
from server.config.settings import load
from server.engine.args import engine_args
from server.errors import SettingsError


def made(arguments: dict[str, Any]) -> AsyncEngineArgs:
    return engine_args(load({"model": str(demo.MODEL_DIR), "engine_args": json.dumps(arguments)}))


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
