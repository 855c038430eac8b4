"""The library that enforces a schema: each request's own, and no room for white space without end."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from vllm.config import ModelConfig, StructuredOutputsConfig, VllmConfig
from vllm.config.device import DeviceConfig
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.backend_guidance import GuidanceGrammar
from vllm.v1.structured_output.backend_outlines import OutlinesGrammar
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar, StructuredOutputOptions
from vllm.v1.structured_output.backend_xgrammar import XgrammarGrammar

import demo
from server.engine.decoding.structured_output import MAX_WHITESPACE_CHARS, choose_for_each_request

PLAIN = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"],
         "additionalProperties": False}  # fmt: skip
SEVENS = {"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 7}}, "required": ["a"],
          "additionalProperties": False}  # fmt: skip
PATTERNS = {"type": "object", "properties": {"c": {"type": "integer"}}, "required": ["c"],
            "patternProperties": {"^a": {"type": "integer"}}}  # fmt: skip
GRAMMARS = {
    "plain": (PLAIN, XgrammarGrammar),
    "sevens": (SEVENS, GuidanceGrammar),
    "patterns": (PATTERNS, OutlinesGrammar),
}


def manager_of(**structured: Any) -> StructuredOutputManager:
    config = VllmConfig(
        model_config=ModelConfig(model=str(demo.MODEL_DIR), dtype="float32", max_model_len=512),
        device_config=DeviceConfig("cpu"),
        structured_outputs_config=StructuredOutputsConfig(**structured),
    )
    manager = StructuredOutputManager(config)
    choose_for_each_request(manager)
    return manager


@pytest.fixture(scope="module")
def manager() -> StructuredOutputManager:
    return manager_of()


def compiled(manager: StructuredOutputManager, schema: dict[str, Any]) -> StructuredOutputGrammar:
    assert manager.backend is not None
    return manager.backend.compile_grammar(StructuredOutputOptions.JSON, json.dumps(schema))


def takes(manager: StructuredOutputManager, schema: dict[str, Any], text: str) -> bool:
    """Whether a model may write this, token by token."""
    grammar = compiled(manager, schema)
    ids = manager.tokenizer.encode(text, add_special_tokens=False)
    return len(grammar.validate_tokens(ids)) == len(ids)


@pytest.mark.parametrize("order", list(itertools.permutations(GRAMMARS)))
def test_whoever_comes_first_each_schema_has_the_library_that_keeps_it(order: tuple[str, ...]) -> None:
    manager = manager_of()
    for name in order:
        schema, kind = GRAMMARS[name]
        assert isinstance(compiled(manager, schema), kind), name
    assert takes(manager, SEVENS, '{"a": 14}') and not takes(manager, SEVENS, '{"a": 15}')


def test_one_mask_serves_them_all(manager: StructuredOutputManager) -> None:
    assert manager.backend is not None
    mask = manager.backend.allocate_token_bitmask(len(GRAMMARS))
    for row, (schema, _) in enumerate(GRAMMARS.values()):
        mask[row].fill_(-1)
        compiled(manager, schema).fill_bitmask(mask, row)
        allowed = [at for at in range(mask.shape[1] * 32) if mask[row, at // 32] >> at % 32 & 1]
        assert allowed and all(manager.tokenizer.decode([at]).startswith("{") for at in allowed)


@pytest.mark.parametrize("indent", [None, 2, 4])
def test_json_may_be_printed_as_people_print_it(manager: StructuredOutputManager, indent: int | None) -> None:
    schema: dict[str, Any] = PLAIN
    value: dict[str, Any] = {"a": 1, "b": -2}
    for _ in range(2):
        value = {"inner": value}
        schema = {"type": "object", "properties": {"inner": schema}, "required": ["inner"]}
    assert takes(manager, schema, json.dumps(value, indent=indent))
    assert takes(manager, schema, json.dumps(value, separators=(",", ":")))


@pytest.mark.parametrize("name", ["plain", "sevens"])
def test_white_space_has_an_end(manager: StructuredOutputManager, name: str) -> None:
    schema, _ = GRAMMARS[name]
    for gap in (" ", "\n", "\t", " \n"):
        assert not takes(manager, schema, '{"a":' + gap * (MAX_WHITESPACE_CHARS + 1) + "7")
        assert not takes(manager, schema, "{" + gap * (MAX_WHITESPACE_CHARS + 1) + '"a"')
    assert takes(manager, schema, '{"a": 7')


def test_json_without_a_schema_and_other_grammars_still_compile(manager: StructuredOutputManager) -> None:
    assert manager.backend is not None
    for kind, spec in (
        (StructuredOutputOptions.JSON_OBJECT, ""),
        (StructuredOutputOptions.REGEX, "[a-z]+"),
        (StructuredOutputOptions.GRAMMAR, 'root ::= "yes" | "no"'),
    ):
        assert manager.backend.compile_grammar(kind, spec) is not None


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        (StructuredOutputOptions.GRAMMAR, "root ::= ("),
        (StructuredOutputOptions.REGEX, "(a"),
        (StructuredOutputOptions.REGEX, r"(a)\1"),
        (
            StructuredOutputOptions.JSON,
            json.dumps(SEVENS | {"properties": {"a": {"type": "integer", "multipleOf": "x"}}}),
        ),
    ],
)
def test_what_no_library_takes_is_an_error(
    manager: StructuredOutputManager, kind: StructuredOutputOptions, spec: str
) -> None:
    assert manager.backend is not None
    with pytest.raises(Exception, match=r"."):
        manager.backend.compile_grammar(kind, spec)


@pytest.mark.parametrize("backend", ["xgrammar", "guidance"])
def test_an_operators_choice_stays(backend: str) -> None:
    assert manager_of(backend=backend).backend is None
