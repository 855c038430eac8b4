"""Reading a body: strict JSON, quick decisions about its size, and what is left without its prompt."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampling.endpoints import Endpoint
from sampling.errors import BodyLimitExceeded
from sampling.limits import NO_LIMITS, Limits
from server.errors import InvalidRequest
from server.request.body import SMALL_BYTES, is_small, parse, read, with_prompt, without_prompt

HELLO = [{"role": "user", "content": "Hi, there [you] {all}"}]


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "Expecting value"),
        (b"[]", "must be a JSON object, not list"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "the number 1e999 is too large"),
        (b'{"a": -1E+999}', "the number -1E+999 is too large"),
        (b'{"a": ' + b"1" * 5000 + b"}", "limit (4300 digits)"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"a": {"b": ["\\uDFFF"]}}', "half of a surrogate pair"),
        (b'{"\\ud83d": 1}', "half of a surrogate pair"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8 at byte 7"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_strict_json_is_refused_with_the_reason(raw: bytes, why: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(raw)
    assert why in str(caught.value) and caught.value.code == "invalid_json"


def test_what_is_json_is_read() -> None:
    raw = '{"a": "\\ud83d\\ude00é", "b": 1e300, "c": 1e-999, "d": [], "d": {"x": 123456789012345678901}}'.encode()
    assert parse(raw) == {"a": "😀é", "b": 1e300, "c": 0.0, "d": {"x": 123456789012345678901}}


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_an_object_or_a_refusal(raw: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert isinstance(parse(raw), dict)


def test_a_read_body_is_within_the_limits() -> None:
    assert read(b'{"a": [1, 2]}', Limits(body_values=4)) == {"a": [1, 2]}
    with pytest.raises(BodyLimitExceeded):
        read(b'{"a": [1, 2]}', Limits(body_values=3))


def sized(separators: int) -> bytes:
    """A body with this many of `,` and `[` and `{` outside of texts, and more of them inside."""
    return json.dumps({"messages": HELLO, "stop": ["a"] * (separators - 5)}).encode()


def test_separators_in_texts_do_not_count() -> None:
    assert is_small(sized(512), Endpoint.CHAT)
    assert not is_small(sized(513), Endpoint.CHAT)
    prose = json.dumps({"messages": [{"role": "user", "content": 'a, "b", [c], {d}; ' * 1000}]}).encode()
    assert is_small(prose, Endpoint.CHAT)
    assert not is_small(b'{"prompt": "' + b"a" * SMALL_BYTES + b'"}', Endpoint.COMPLETIONS)


@pytest.mark.parametrize(
    "raw",
    [
        b'"' * 65_000,
        b'"\\"' * 20_000,
        b"[" * 65_000,
        b'{"a":' * 12_000,
        b'"' + b'\\"' * 32_000,
        b"," * 65_000,
    ],
)
def test_the_decision_is_quick_for_any_bytes(raw: bytes) -> None:
    began = time.thread_time()
    for _ in range(10):
        is_small(raw, Endpoint.COMPLETIONS)
    assert (time.thread_time() - began) / 10 < 0.01


BODIES: dict[Endpoint, dict[str, Any]] = {
    Endpoint.CHAT: {"messages": [*HELLO, {"role": "tool", "tool_call_id": "x", "content": "big"}]},
    Endpoint.COMPLETIONS: {"prompt": ["big"] * 3},
    Endpoint.RESPONSES: {"input": [{"role": "user", "content": "big"}], "instructions": "be"},
    Endpoint.MESSAGES: {"messages": HELLO, "system": "big", "max_tokens": 3},
}


@pytest.mark.parametrize("endpoint", Endpoint)
def test_without_its_prompt_a_body_is_small_and_with_it_it_is_whole(endpoint: Endpoint) -> None:
    body = BODIES[endpoint] | {"model": "m", "temperature": 0.5}
    lean = without_prompt(body, endpoint)
    assert "big" not in str(lean) and lean["temperature"] == 0.5
    assert with_prompt(lean, body) == body
    assert with_prompt(lean | {"seed": 1}, body) == body | {"seed": 1}


def test_the_last_role_stays_because_an_answer_may_repeat_it() -> None:
    body = {"messages": [*HELLO, {"role": "assistant", "content": "I"}]}
    assert without_prompt(body, Endpoint.CHAT)["messages"] == [{"role": "assistant", "content": ""}]
    for wrong in ([], "x", [1], [{"role": 1}], None):
        assert without_prompt({"messages": wrong}, Endpoint.CHAT)["messages"][0]["role"] == "user"


def test_messages_that_change_the_tools_stay() -> None:
    block = {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "f"}}
    content = [{"type": "text", "text": "big"}, block]
    lean = without_prompt({"messages": [{"role": "user", "content": content}]}, Endpoint.MESSAGES)
    assert lean["messages"][1:] == [{"role": "user", "content": [block]}] and "big" not in str(lean)


def test_a_small_body_is_checked_as_a_large_one() -> None:
    assert read(b'{"a": 1}', NO_LIMITS) == {"a": 1}
