"""Limits: what is clamped, what is refused, and that lower layers only tighten."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampling.endpoints import Endpoint
from sampling.errors import InvalidLimit, LimitExceeded
from sampling.limits import (
    DEFAULT_LIMITS,
    NO_LIMITS,
    Limits,
    apply,
    check_prompt,
    check_prompt_logprobs,
    fit_logprobs,
    tighten,
)

limits = st.builds(Limits, **{name: st.none() | st.integers(1, 1000) for name in asdict(NO_LIMITS)})


def unlimited_as_infinity(value: int | None) -> float:
    return float("inf") if value is None else value


@given(limits, limits)
def test_tightening_never_loosens(lower, upper):
    tightened = asdict(tighten(lower, upper))
    for name, value in tightened.items():
        smaller = min(
            unlimited_as_infinity(getattr(lower, name)), unlimited_as_infinity(getattr(upper, name))
        )
        assert unlimited_as_infinity(value) == smaller


@given(limits, limits, limits)
def test_layers_tighten_in_any_grouping(server, tenant, adapter):
    assert tighten(adapter, tighten(tenant, server)) == tighten(tighten(adapter, tenant), server)
    assert tighten(server, NO_LIMITS) == server == tighten(server, server)


@given(
    limit=st.integers(1, 500),
    asked=st.none() | st.integers(1, 1000),
    endpoint=st.sampled_from(Endpoint),
)
def test_no_answer_is_longer_than_the_limit(limit, asked, endpoint):
    name = {Endpoint.RESPONSES: "max_output_tokens", Endpoint.CHAT: "max_completion_tokens"}.get(
        endpoint, "max_tokens"
    )
    body = {} if asked is None else {name: asked}
    clamped = apply(Limits(max_tokens=limit), body, endpoint)
    default = 16 if endpoint is Endpoint.COMPLETIONS else 10**9
    wanted = default if asked is None else asked
    assert clamped == (name if wanted > limit else None)


def test_clamps_the_name_that_vllm_obeys():
    body = {"max_tokens": 50, "max_completion_tokens": 100}
    assert apply(Limits(max_tokens=80), body, Endpoint.CHAT) == "max_completion_tokens"
    assert apply(Limits(max_tokens=80), {"max_tokens": 90}, Endpoint.CHAT) == "max_tokens"


@pytest.mark.parametrize(
    ("limit", "body", "endpoint", "message"),
    [
        (Limits(n=2), {"n": 3}, Endpoint.CHAT, "n is 3, above this server's limit of 2"),
        (Limits(top_logprobs=5), {"logprobs": True, "top_logprobs": 6}, Endpoint.CHAT, "top_logprobs is 6"),
        (Limits(top_logprobs=5), {"logprobs": 6}, Endpoint.COMPLETIONS, "logprobs is 6"),
        (Limits(top_logprobs=5), {"logprobs": -1}, Endpoint.COMPLETIONS, "-1: the whole vocabulary"),
        (Limits(top_logprobs=5), {"prompt_logprobs": 6}, Endpoint.CHAT, "prompt_logprobs is 6"),
        (
            Limits(top_logprobs=1),
            {"logprob_token_ids": [1, 2]},
            Endpoint.CHAT,
            "logprob_token_ids is 2",
        ),
        (Limits(stop_count=1), {"stop": ["a", "b"]}, Endpoint.CHAT, "number of stop strings is 2"),
        (Limits(stop_count=0), {"stop": "ab"}, Endpoint.RESPONSES, "number of stop strings is 1"),
        (Limits(stop_count=1), {"stop_sequences": ["a", "b"]}, Endpoint.MESSAGES, "number of stop_sequences"),
    ],
)
def test_refuses_what_is_not_clamped(limit, body, endpoint, message):
    with pytest.raises(LimitExceeded) as caught:
        apply(limit, body, endpoint)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "body"),
    [
        (Limits(n=1), {}),
        (Limits(n=3), {"n": 3}),
        (Limits(top_logprobs=0), {"logprobs": True, "top_logprobs": 0}),
        (Limits(top_logprobs=5), {"logprobs": True, "top_logprobs": 5}),
        (Limits(stop_count=2), {"stop": ["a", "b"]}),
        (Limits(stop_count=0), {"stop": []}),
    ],
)
def test_at_the_limit_is_within_it(limit, body):
    assert apply(limit, body, Endpoint.CHAT) is None


def test_prompt_length():
    check_prompt(Limits(prompt_tokens=10), 10)
    check_prompt(NO_LIMITS, 10**9)
    with pytest.raises(LimitExceeded, match="prompt length in tokens is 11, above this server's limit of 10"):
        check_prompt(Limits(prompt_tokens=10), 11)


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"n": -1}, {"n": True}, {"stop_count": 1.5}])
def test_a_limit_is_a_positive_integer(wrong):
    with pytest.raises(InvalidLimit, match=next(iter(wrong))):
        Limits(**wrong)


def test_a_length_that_nobody_chose_is_reduced_to_fit_its_log_probabilities() -> None:
    asked = {"n": 2, "per_token": 5, "max_tokens": 11}
    assert fit_logprobs(Limits(logprobs=110), **asked, chosen=False) == 11
    assert fit_logprobs(Limits(logprobs=109), **asked, chosen=False) == 10
    assert fit_logprobs(Limits(logprobs=110), **asked, chosen=True) == 11
    assert fit_logprobs(NO_LIMITS, **asked, chosen=True) == 11
    for limit, chosen in ((109, True), (9, False)):
        with pytest.raises(LimitExceeded) as caught:
            fit_logprobs(Limits(logprobs=limit), **asked, chosen=chosen)
        assert f"(2 x 11 x 5) is 110, above this server's limit of {limit}" in str(caught.value)


def test_the_log_probabilities_of_a_prompt_are_limited() -> None:
    check_prompt_logprobs(Limits(prompt_logprobs=30), n=2, per_token=3, prompt_tokens=5)
    check_prompt_logprobs(NO_LIMITS, n=2, per_token=3, prompt_tokens=5)
    with pytest.raises(LimitExceeded) as caught:
        check_prompt_logprobs(Limits(prompt_logprobs=29), n=2, per_token=3, prompt_tokens=5)
    assert caught.value.param == "prompt_logprobs" and caught.value.value == 30


def test_the_defaults_are_valid_limits_that_a_tenant_can_tighten() -> None:
    server = Limits(**DEFAULT_LIMITS)
    assert tighten(Limits(messages=3, tools=10**9), server).messages == 3
    assert tighten(Limits(messages=3, tools=10**9), server).tools == DEFAULT_LIMITS["tools"]
