"""A forced call keeps the schema of its tool on every endpoint, and no endpoint drops a keyword of a schema."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

WEATHER = "What is the weather in Paris?"
#: Integers end by themselves; xgrammar enforces the first schema, guidance the second.
KEPT = {"type": "integer", "minimum": 1, "maximum": 99}
FIVES = {"type": "integer", "minimum": 10, "maximum": 90, "multipleOf": 5}
LETTERS = {"type": "string", "pattern": "^[a-c]+$", "maxLength": 2}
PLACES = ["chat", "responses", "messages"]


def schema_of(value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"n": value}, "required": ["n"], "additionalProperties": False}


def forced(
    place: str, schema: dict[str, Any], by_name: bool = False, tokens: int = 60, **tool: Any
) -> tuple[str, dict[str, Any]]:
    """Path and body of a request that forces one call of the tool `count`."""
    function = {"name": "count", **tool}
    said = [{"role": "user", "content": WEATHER}]
    common = {"model": "acme-support", "temperature": 1}
    if place == "chat":
        return "/v1/chat/completions", common | {
            "messages": said,
            "max_tokens": tokens,
            "tools": [{"type": "function", "function": function | {"parameters": schema}}],
            "tool_choice": {"type": "function", "function": {"name": "count"}} if by_name else "required",
            "parallel_tool_calls": False,
        }
    if place == "responses":
        return "/v1/responses", common | {
            "input": WEATHER,
            "max_output_tokens": tokens,
            "tools": [{"type": "function", **function, "parameters": schema}],
            "tool_choice": {"type": "function", "name": "count"} if by_name else "required",
            "parallel_tool_calls": False,
        }
    choice = {"type": "tool", "name": "count"} if by_name else {"type": "any"}
    return "/v1/messages", common | {
        "messages": said,
        "max_tokens": tokens,
        "tools": [function | {"input_schema": schema}],
        "tool_choice": choice | {"disable_parallel_tool_use": True},
    }


def arguments(place: str, answer: dict[str, Any]) -> Any:
    """The arguments of the one call of an answer."""
    if place == "chat":
        (call,) = answer["choices"][0]["message"]["tool_calls"]
        return json.loads(call["function"]["arguments"])
    if place == "responses":
        (call,) = [item for item in answer["output"] if item["type"] == "function_call"]
        return json.loads(call["arguments"])
    (call,) = [item for item in answer["content"] if item["type"] == "tool_use"]
    return call["input"]


def is_right(value: dict[str, Any], found: Any) -> bool:
    number = found["n"] if isinstance(found, dict) and list(found) == ["n"] else None
    if value is LETTERS:
        return isinstance(number, str) and len(number) <= 2 and set(number) <= set("abc") and number != ""
    return (
        type(number) is int
        and value["minimum"] <= number <= value["maximum"]
        and not number % value.get("multipleOf", 1)
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", [KEPT, FIVES, LETTERS], ids=["kept", "fives", "letters"])
@pytest.mark.parametrize("by_name", [False, True], ids=["any", "named"])
def test_a_forced_call_keeps_its_schema(http: httpx.Client, place: str, value: Any, by_name: bool) -> None:
    path, body = forced(place, schema_of(value), by_name)
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    found = arguments(place, answer.json())
    assert is_right(value, found), found


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_cannot_be_kept_is_refused(http: httpx.Client, place: str, stream: bool) -> None:
    path, body = forced(place, schema_of({"type": "integer", "not": {"const": 1}}))
    answer = http.post(path, json=body | {"stream": stream})
    assert answer.status_code == 400
    text = answer.json()["error"]["message"]
    assert '"not"' in text and 'tool_choice "auto"' in text, text
    if place != "messages":  # Anthropic's errors have neither
        assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (
            "tools",
            "invalid_grammar",
        )


@pytest.mark.parametrize("place", PLACES)
def test_parameters_that_are_no_object_are_refused(http: httpx.Client, place: str) -> None:
    path, body = forced(place, {"type": "string"})
    answer = http.post(path, json=body)
    if place != "messages":  # whose wire model asks for an object itself
        assert "must be the schema of an object" in answer.json()["error"]["message"], answer.text
    assert answer.status_code == 400


BAD = {"type": "string", "not": {"const": "a"}}


@pytest.mark.parametrize(
    ("path", "field", "form"),
    [
        (
            "chat/completions",
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "x", "schema": BAD}},
        ),
        ("chat/completions", "structured_outputs", {"json": BAD}),
        ("responses", "text", {"format": {"type": "json_schema", "name": "x", "schema": BAD}}),
        ("messages", "output_config", {"format": {"type": "json_schema", "schema": BAD}}),
        ("completions", "structured_outputs", {"json": BAD}),
    ],
)
def test_no_form_drops_a_keyword(http: httpx.Client, path: str, field: str, form: Any) -> None:
    said = [{"role": "user", "content": WEATHER}]
    ask = {"responses": {"input": WEATHER}, "completions": {"prompt": WEATHER}}.get(path, {"messages": said})
    limit = "max_output_tokens" if path == "responses" else "max_tokens"
    answer = http.post(f"/v1/{path}", json={"model": "acme-support", limit: 8, field: form} | ask)
    assert answer.status_code == 400, answer.text
    assert '"not"' in answer.json()["error"]["message"]


def test_auto_leaves_tools_without_strict_free(http: httpx.Client) -> None:
    """A schema that cannot be kept is no error where nobody asked to keep it."""
    path, body = forced("chat", schema_of({"type": "integer", "not": {"const": 1}}), tokens=5)
    assert http.post(path, json=body | {"tool_choice": "auto"}).status_code == 200
