"""What a worker refuses and why, what it writes, and how much it may cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.structured_output.backend_types import StructuredOutputOptions as Kind

from server.engine.decoding.grammars import files, worker
from server.engine.decoding.grammars.errors import GrammarRefused, TooComplex
from server.engine.decoding.grammars.worker import Compiler, Order

NO_ANSWER = "no answer can match|no finite answer|empty|Unsatisfiable"


def tag(schema: Any) -> str:
    content = {"type": "json_schema", "json_schema": schema}
    return json.dumps(
        {
            "type": "structural_tag",
            "format": {"type": "tag", "begin": "<a>", "content": content, "end": "</a>"},
        }
    )


#: name → what is asked for, a part of the reason.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a schema of itself": ({"json": {"$ref": "#"}}, NO_ANSWER),
    "a definition of itself": (
        {"json": {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}},
        NO_ANSWER,
    ),
    "all of itself": ({"json": {"allOf": [{"$ref": "#"}]}}, NO_ANSWER),
    "an empty enum": ({"json": {"enum": []}}, NO_ANSWER),
    "false": ({"json": "false"}, "`false` accepts no value"),
    "a number as a schema": ({"json": "5"}, "a schema is an object or a boolean, not int"),
    "no JSON": ({"json": "{"}, "it is not JSON"),
    "no type of JSON": ({"json": {"type": "text"}}, "text"),
    "a missing definition": ({"json": {"$ref": "#/$defs/none"}}, "none"),
    "a document elsewhere": ({"json": {"$ref": "https://example.com/schema"}}, "example.com"),
    "an empty class": ({"regex": r"[^\s\S]"}, NO_ANSWER),
    "an open parenthesis": ({"regex": "("}, "parenthesis"),
    "look-ahead": ({"regex": "(?=a)b"}, "look-around"),
    "an anchor within": ({"regex": "a(^b|c)"}, "not supported"),
    "a back-reference": ({"regex": r"(a)\1"}, "ackreference"),
    "NUL": ({"regex": "a\x00"}, "NUL"),
    "an endless rule": ({"grammar": "root ::= root"}, NO_ANSWER),
    "an endless Lark rule": ({"grammar": "start: start"}, NO_ANSWER),
    "an unknown rule": ({"grammar": "root ::= a"}, '"a" is not defined'),
    "no grammar": ({"grammar": "nonsense"}, "expected ':'"),
    "an empty grammar": ({"grammar": " "}, "grammar is empty"),
    "no choice": ({"choice": []}, "choice is empty"),
    "json_object false": ({"json_object": False}, "must be true"),
    "a tag that is not JSON": ({"structural_tag": "<a>"}, "it is not JSON"),
    "an unknown tag": (
        {"structural_tag": '{"type": "structural_tag", "format": {"type": "odd"}}'},
        "odd|format",
    ),
    "a tag of an endless schema": ({"structural_tag": tag({"$ref": "#"})}, NO_ANSWER),
    "a tag of a keyword": ({"structural_tag": tag({"type": "array", "uniqueItems": True})}, "uniqueItems"),
}
TAKEN: dict[str, tuple[dict[str, Any], str]] = {  # with the library
    "a schema": ({"json": {"type": "integer"}}, "xgrammar"),
    "a schema as text": ({"json": '{"type": "integer"}'}, "xgrammar"),
    "true": ({"json": "true"}, "xgrammar"),
    "a schema for guidance": ({"json": {"type": "integer", "multipleOf": 3}}, "guidance"),
    "any object": ({"json_object": True}, "xgrammar"),
    "an expression": ({"regex": "a+b?"}, "xgrammar"),
    "anchors at the ends": ({"regex": "^a|b$"}, "xgrammar"),
    "choices": ({"choice": ["yes", 'n"o', "\\"]}, "xgrammar"),
    "an EBNF grammar": ({"grammar": 'root ::= "a" | "b" root'}, "xgrammar"),
    "a Lark grammar": ({"grammar": 'start: "a" | "b" start'}, "xgrammar"),
    "a tag": ({"structural_tag": tag({"type": "integer"})}, "xgrammar"),
    "a tag for guidance": ({"structural_tag": tag({"type": "integer", "multipleOf": 3})}, "guidance"),
}


def order(folder: Path, max_depth: int | None = None, *, tries_all: bool = True, **wanted: Any) -> Order:
    params = StructuredOutputsParams(**wanted)
    return Order(params, str(folder / "grammar"), str(folder / "scratch"), max_depth, tries_all)


@pytest.mark.parametrize("name", REFUSED)
def test_what_nothing_matches_or_enforces_is_refused(compiler: Compiler, tmp_path: Path, name: str) -> None:
    wanted, reason = REFUSED[name]
    with pytest.raises(GrammarRefused, match=reason) as caught:
        compiler.compile(order(tmp_path, **wanted))
    assert ".cc:" not in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TAKEN)
def test_the_rest_is_written_for_the_engine(compiler: Compiler, tmp_path: Path, name: str) -> None:
    wanted, library = TAKEN[name]
    outcome = compiler.compile(order(tmp_path, **wanted))
    prepared = files.read(tmp_path / "grammar")
    assert outcome.library == prepared.library == library
    assert outcome.size_bytes == (tmp_path / "grammar").stat().st_size
    again = compiler.libraries[library].compile_grammar(Kind[prepared.kind], prepared.content.decode())
    assert not again.is_terminated()


def test_a_schema_deeper_than_the_limit_is_refused(compiler: Compiler, tmp_path: Path) -> None:
    deep: dict[str, Any] = {}
    for _ in range(8):
        deep = {"properties": {"a": deep}}
    with pytest.raises(GrammarRefused, match="17 levels of nested JSON, at most 16"):
        compiler.compile(order(tmp_path, 16, json=deep))
    compiler.compile(order(tmp_path, 17, json=deep))


def test_what_takes_the_engine_too_long_is_too_complex(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "ENGINE_S", -1.0)
    with pytest.raises(TooComplex, match="processor time"):
        compiler.compile(order(tmp_path, json={"type": "integer"}))


def test_a_slow_compilation_is_handed_over_compiled_or_left_to_guidance(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"field_{number}" for number in range(40)]
    schema = {"type": "object", "properties": {name: {"type": "string", "maxLength": 60} for name in names}}
    monkeypatch.setattr(worker, "RECOMPILE_S", 0.0)
    outcome = compiler.compile(order(tmp_path, json=schema))
    assert outcome.is_compiled is files.read(tmp_path / "grammar").is_compiled
    monkeypatch.setattr(worker, "MEMORY_BYTES", 1 << 10)
    assert compiler.compile(order(tmp_path, json=schema)).library == "guidance"


def test_a_compiled_form_that_is_too_large_for_a_file_is_compiled_again(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "RECOMPILE_S", 0.0)
    monkeypatch.setattr(worker, "FILE_BYTES", 10)
    assert not compiler.compile(order(tmp_path, json={"type": "integer"})).is_compiled


def test_the_second_try_asks_only_the_library_that_compiles_least(compiler: Compiler, tmp_path: Path) -> None:
    outcome = compiler.compile(order(tmp_path, tries_all=False, json={"type": "integer"}))
    assert outcome.library == "guidance"


def test_a_worker_compiles_with_what_it_was_set_up_with(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_compiler", compiler)
    assert worker.compile_grammar(order(tmp_path, regex="a")).library == "xgrammar"
