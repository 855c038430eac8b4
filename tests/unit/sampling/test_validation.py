"""The table of options and the check of a body against it. What vLLM accepts is in test_against_vllm.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampling.endpoints import Endpoint
from sampling.errors import InvalidParameter, UnsupportedParameter
from sampling.options import OPTIONS
from sampling.validation import LAYERED, effective_name, options_on, validate


def refused(name, value, endpoint=Endpoint.CHAT) -> InvalidParameter:
    with pytest.raises(InvalidParameter) as caught:
        validate({name: value}, endpoint)
    return caught.value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", 2.5, "temperature must be a number from 0 to 2, got 2.5."),
        ("top_p", 0, "top_p must be a number above 0 up to 1, got 0."),
        ("n", 0, "n must be an integer from 1 to 16384, got 0."),
        ("top_k", -2, "top_k must be an integer of at least -1 (0 or -1 for all tokens), got -2."),
        ("repetition_penalty", 0, "repetition_penalty must be a finite number above 0, got 0."),
        ("ignore_eos", 1, "ignore_eos must be true or false, got 1."),
        ("reasoning_effort", "much", "one of 'none', 'minimal'"),
        ("stop", ["a", ""], "stop must be a non-empty string or a list of up to 4 non-empty strings"),
        ("tools", {"a": 1}, "tools must be an array, got {'a': 1}."),
        ("max_completion_tokens", 0, "max_completion_tokens must be an integer of at least 1, got 0."),
    ],
)
def test_message_names_field_value_and_range(name, value, message):
    error = refused(name, value)
    assert message in str(error)
    assert error.param == name
    assert error.value == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "0.7"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", 10**400),
        ("max_tokens", "100"),
        ("max_tokens", True),
        ("max_tokens", 1.5),
        ("max_tokens", 2**63),
        ("max_tokens", [1]),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("repetition_penalty", float("inf")),
        ("repetition_penalty", 10**400),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"5": float("nan")}),
        ("logit_bias", {"word": 1}),
        ("logit_bias", {"5": True}),
        ("logit_bias", {"9" * 19: 1}),
        ("logit_bias", [5]),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", ""),
        ("stop", [1]),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [True]),
        ("stop_token_ids", 3),
        ("allowed_token_ids", []),
        ("bad_words", "word"),
        ("bad_words", [""]),
        ("logprob_token_ids", list(range(129))),
        ("logprobs", 5),
        ("repetition_detection", {"max_pattern_size": 257, "min_count": 3}),
        ("repetition_detection", {"max_pattern_size": 4, "min_count": 1}),
        ("repetition_detection", {"max_pattern_size": 4, "min_pattern_size": 5, "min_count": 3}),
        ("repetition_detection", {"max_pattern_size": "4", "min_count": 3}),
        ("repetition_detection", []),
        ("response_format", "json"),
        ("structured_outputs", []),
        ("tool_choice", 5),
        ("chat_template_kwargs", []),
        ("preset", 5),
    ],
)
def test_wrong_type_or_value_is_refused(name, value):
    assert refused(name, value).param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("temperature", 2),
        ("temperature", 1e-9),
        ("top_p", 1),
        ("max_tokens", 512.0),
        ("seed", -1),
        ("logit_bias", {}),
        ("logit_bias", {"0": -100, "151645": 100.0}),
        ("stop", "a"),
        ("stop", []),
        ("stop", ["a"] * 4),
        ("stop_token_ids", [0]),
        ("repetition_detection", {"max_pattern_size": 256, "min_count": 2}),
        ("repetition_detection", {}),
        ("tool_choice", "auto"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("temperature", None),
        ("bad_words", None),
        ("something_new", object()),
    ],
)
def test_right_values_nulls_and_unknown_fields_pass(name, value):
    validate({name: value}, Endpoint.CHAT)


def test_a_long_value_is_cut_in_the_message():
    assert len(str(refused("tools", "x" * 5000))) < 150


@pytest.mark.parametrize(
    ("endpoint", "name", "value", "hint"),
    [
        (Endpoint.RESPONSES, "max_tokens", 5, "Use max_output_tokens."),
        (Endpoint.RESPONSES, "max_completion_tokens", 5, "Use max_output_tokens."),
        (Endpoint.COMPLETIONS, "max_completion_tokens", 5, "Use max_tokens."),
        (Endpoint.CHAT, "max_output_tokens", 5, "Use max_completion_tokens."),
        (Endpoint.MESSAGES, "stop", ["a"], "Use stop_sequences."),
        (Endpoint.CHAT, "stop_sequences", ["a"], "Use stop."),
        (Endpoint.MESSAGES, "repetition_penalty", 1.1, "Leave it out."),
        (Endpoint.RESPONSES, "n", 2, "Leave it out."),
        (Endpoint.RESPONSES, "n", True, "Leave it out."),
        (Endpoint.RESPONSES, "response_format", {"type": "json_object"}, "Use text.format."),
        (Endpoint.COMPLETIONS, "top_logprobs", 3, "Use logprobs with a number."),
        (Endpoint.CHAT, "guided_json", {}, "Use structured_outputs or response_format."),
        (Endpoint.COMPLETIONS, "best_of", 2, "Ask for n answers"),
    ],
)
def test_an_option_the_endpoint_would_ignore_is_refused(endpoint, name, value, hint):
    with pytest.raises(UnsupportedParameter) as caught:
        validate({name: value}, endpoint)
    assert endpoint.path in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "name", "value"),
    [
        (Endpoint.COMPLETIONS, "best_of", 1),
        (Endpoint.RESPONSES, "n", 1),
        (Endpoint.MESSAGES, "repetition_penalty", 1),
        (Endpoint.RESPONSES, "logprobs", False),
        (Endpoint.MESSAGES, "stop", []),
        (Endpoint.MESSAGES, "seed", None),
    ],
)
def test_an_ignored_option_that_asks_for_nothing_passes(endpoint, name, value):
    validate({name: value}, endpoint)


def test_zero_tokens_only_where_the_prompt_is_echoed():
    validate({"max_tokens": 0, "echo": True}, Endpoint.COMPLETIONS)
    for body, endpoint in [
        ({"max_tokens": 0}, Endpoint.COMPLETIONS),
        ({"max_tokens": False, "echo": True}, Endpoint.COMPLETIONS),
        ({"max_tokens": -1, "echo": True}, Endpoint.COMPLETIONS),
        ({"max_tokens": 0, "echo": True}, Endpoint.CHAT),
    ]:
        with pytest.raises(InvalidParameter):
            validate(body, endpoint)


def test_obeyed_name_skips_nulls():
    names = ("max_completion_tokens", "max_tokens")
    assert effective_name(names, {"max_tokens": 3}) == "max_tokens"
    assert effective_name(names, {"max_tokens": 3, "max_completion_tokens": None}) == "max_tokens"
    assert effective_name(names, {"max_tokens": 3, "max_completion_tokens": 4}) == "max_completion_tokens"
    assert effective_name(names, {"max_tokens": None}) is None


def test_each_name_means_one_thing_per_endpoint():
    for endpoint in Endpoint:
        names = [name for option in OPTIONS for name in option.names(endpoint)]
        assert len(names) == len(set(names))
        assert set(names) == set(options_on(endpoint))


def test_defaults_are_values_a_request_could_send():
    for option in OPTIONS:
        if option.default is not None and option.default != ():
            assert option.kind.accepts(option.default), option.name


def test_what_only_a_request_may_set():
    assert {"n", "logprobs", "tools", "tool_choice", "preset"}.isdisjoint(LAYERED)
    assert {"temperature", "max_tokens", "stop", "seed", "response_format"} <= LAYERED


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    body=st.dictionaries(
        st.sampled_from([*options_on(Endpoint.CHAT), "best_of", "echo", "user"]), json_values, max_size=4
    ),
    endpoint=st.sampled_from(Endpoint),
)
def test_any_json_is_accepted_or_refused_by_name(body, endpoint):
    try:
        validate(body, endpoint)
    except InvalidParameter as error:
        assert error.param in body
        assert str(error).startswith(error.param)
