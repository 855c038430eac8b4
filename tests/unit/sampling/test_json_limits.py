"""The size and shape of a body: measured in one pass, and refused with the value, the limit and its name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampling.errors import BodyLimitExceeded
from sampling.json_limits import Size, check_body, measure
from sampling.limits import DEFAULT_LIMITS, NO_LIMITS, Limits

DEFAULTS = Limits(**DEFAULT_LIMITS)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def measured_slowly(value: Any) -> Size:
    """The same by recursion."""
    if isinstance(value, str):
        return Size(1, 0, len(value.encode()))
    if not isinstance(value, list | dict):
        return Size(1, 0, 0)
    keys = sum(len(key.encode()) for key in value) if isinstance(value, dict) else 0
    parts = [measured_slowly(item) for item in (value.values() if isinstance(value, dict) else value)]
    return Size(
        1 + sum(part.values for part in parts),
        1 + max((part.depth for part in parts), default=0),
        keys + sum(part.text_bytes for part in parts),
    )


@given(json_values)
def test_one_pass_measures_what_recursion_does(value: Any) -> None:
    assert measure(value) == measured_slowly(value)


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


MESSAGE = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("body", "limits", "param", "sentence"),
    [
        ({"messages": [MESSAGE] * 3}, Limits(messages=2), "messages", "3 messages; at most 2"),
        ({"input": [MESSAGE] * 3}, Limits(messages=2), "input", "3 input; at most 2"),
        ({"tools": [{}] * 3}, Limits(tools=2), "tools", "3 tools; at most 2"),
        ({"prompt": ["a"] * 3}, Limits(prompts=2), "prompt", "3 prompts x n; at most 2"),
        ({"prompt": "a", "n": 3}, Limits(prompts=2), "prompt", "3 prompts x n; at most 2"),
        ({"prompt": [[1], [2]], "n": 2}, Limits(prompts=3), "prompt", "4 prompts x n; at most 3"),
        ({"metadata": [0, 0]}, Limits(body_values=3), "body", "4 JSON values; at most 3"),
        ({"metadata": nested(3)}, Limits(body_depth=3), "body", "4 levels of nested JSON; at most 3"),
        ({"messages": [{"a": "é"}]}, Limits(text_bytes=10), "body", "11 bytes of text; at most 10"),
        ({"stop": ["a", "b"]}, Limits(option_values=3), "body", "outside of prompt and tools; at most 3"),
        ({"bad_words": ["a", "b"]}, Limits(bad_words=1), "bad_words", "2 bad_words; at most 1"),
        ({"bad_words": ["a" * 65]}, Limits(bad_words=1), "bad_words", "65 characters of bad_words"),
        ({"tools": [{"a": "b" * 90}]}, Limits(schema_bytes=99), "tools", "101 bytes of tools; at most 99"),
    ],
)
def test_a_body_above_a_limit_is_refused_and_the_same_body_at_it_is_not(
    body: dict[str, Any], limits: Limits, param: str, sentence: str
) -> None:
    with pytest.raises(BodyLimitExceeded) as caught:
        check_body(body, limits)
    assert caught.value.param == param and sentence in str(caught.value)
    name = caught.value.name
    assert (f"'{name}'" in str(caught.value) and getattr(limits, name) == caught.value.limit) or "bad" in name
    check_body(body, Limits(**{name: caught.value.value}))
    check_body(body, NO_LIMITS)


def test_token_ids_are_one_prompt() -> None:
    check_body({"prompt": [1, 2, 3, 4]}, Limits(prompts=1))


def test_no_honest_request_meets_the_defaults() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    turns = [{"role": "user", "content": "word " * 2000}, {"role": "assistant", "content": "ok"}] * 300
    check_body(
        {"messages": turns, "tools": [tool] * 200, "logit_bias": {str(i): 1 for i in range(5000)}}, DEFAULTS
    )
    check_body({"prompt": [[1] * 900] * 1000, "logprobs": 1}, DEFAULTS)
