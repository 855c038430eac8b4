"""Which value holds, where it comes from, and what the limits made of it."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampling.defaults import Layer
from sampling.endpoints import Endpoint
from sampling.errors import InvalidParameter, LimitExceeded, UnknownPreset
from sampling.limits import NO_LIMITS, Limits
from sampling.presets import Presets
from sampling.resolution import NO_DEFAULTS, Resolved, resolve

NOTHING = {
    "endpoint": Endpoint.CHAT,
    "server": NO_DEFAULTS,
    "adapter": NO_DEFAULTS,
    "tenant": NO_DEFAULTS,
    "presets": Presets(),
    "preset_header": None,
    "limits": NO_LIMITS,
}


def resolved(body, **given) -> Resolved:
    return resolve(body, **(NOTHING | given))


fields = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0.01, 2),
        "top_p": st.floats(0.1, 1),
        "top_k": st.integers(0, 50),
        "repetition_penalty": st.floats(0.5, 2),
        "max_tokens": st.integers(1, 999),
        "seed": st.integers(0, 9),
        "stop": st.lists(st.text(min_size=1, max_size=2), max_size=2),
    },
)
NAMES = {
    Endpoint.CHAT: {"max_tokens": "max_completion_tokens"},
    Endpoint.COMPLETIONS: {},
    Endpoint.RESPONSES: {"max_tokens": "max_output_tokens"},
    Endpoint.MESSAGES: {"stop": "stop_sequences"},
}
NOT_ON_MESSAGES = {"repetition_penalty", "seed"}


@given(
    layers=st.tuples(fields, fields, fields, fields, fields),
    request=fields,
    endpoint=st.sampled_from(Endpoint),
)
def test_the_highest_layer_that_sets_a_field_wins(layers, request, endpoint):
    origins = ("model", "server", "adapter", "tenant", "preset:p")
    model, server, adapter, tenant, preset = map(Layer, origins, layers)
    if endpoint is Endpoint.MESSAGES:
        request = {name: value for name, value in request.items() if name not in NOT_ON_MESSAGES}
    body = {NAMES[endpoint].get(name, name): value for name, value in request.items()}
    before = copy.deepcopy(body)

    outcome = resolved(
        body | {"preset": "p"},
        endpoint=endpoint,
        model=model,
        server=server,
        adapter=adapter,
        tenant=tenant,
        presets=Presets({"p": preset.defaults}),
    )

    expected, expected_origins = {}, {}
    for origin, values in zip((*origins, "request"), (*layers, request), strict=True):
        expected |= values
        expected_origins |= dict.fromkeys(values, origin)
    beyond = NOT_ON_MESSAGES & set(expected) if endpoint is Endpoint.MESSAGES else set()
    unplaced = {name: expected.pop(name) for name in beyond}
    assert outcome.body == {NAMES[endpoint].get(name, name): value for name, value in expected.items()}
    assert outcome.origins == {name: expected_origins[name] for name in [*expected, *unplaced]}
    assert outcome.unplaced == unplaced
    assert outcome.clamped == ()
    assert body == before


def test_the_path_of_an_ordinary_request():
    outcome = resolved(
        {
            "model": "acme-support",
            "messages": [],
            "temperature": 0.5,
            "preset": "chat",
            "user": None,
            "seed": None,
        },
        server=Layer("server", {"max_tokens": 2000, "top_k": 40}),
        adapter=Layer("adapter", {"stop": ["END"]}),
        tenant=Layer("tenant", {"top_k": 20, "seed": 7}),
        limits=Limits(max_tokens=300),
    )
    assert outcome.body == {
        "model": "acme-support",
        "messages": [],
        "temperature": 0.5,
        "user": None,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
        "max_completion_tokens": 300,
        "top_k": 20,
        "seed": 7,
        "stop": ["END"],
    }
    assert outcome.origins == {
        "temperature": "request",
        "top_p": "preset:chat",
        "repetition_penalty": "preset:chat",
        "max_tokens": "limit",
        "top_k": "tenant",
        "seed": "tenant",
        "stop": "adapter",
    }
    assert outcome.clamped == ("max_tokens=300",)


def test_either_name_of_max_tokens_beats_the_layers():
    tenant = Layer("tenant", {"max_tokens": 7})
    assert resolved({"max_tokens": 50}, tenant=tenant).body == {"max_tokens": 50}
    assert resolved({"max_completion_tokens": 50}, tenant=tenant).body == {"max_completion_tokens": 50}
    assert resolved({"max_tokens": None}, tenant=tenant).body == {"max_completion_tokens": 7}


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (Endpoint.CHAT, {"max_completion_tokens": 100}),
        (Endpoint.COMPLETIONS, {}),  # vLLM's default there is 16 tokens, which is within the limit
        (Endpoint.RESPONSES, {"max_output_tokens": 100}),
        (Endpoint.MESSAGES, {"max_tokens": 100}),
    ],
)
def test_a_limit_stands_in_for_an_absent_max_tokens(endpoint, body):
    outcome = resolved({}, endpoint=endpoint, limits=Limits(max_tokens=100))
    assert outcome.body == body
    assert outcome.clamped == (("max_tokens=100",) if body else ())
    assert outcome.origins == ({"max_tokens": "limit"} if body else {})


@pytest.mark.parametrize(("limit", "clamped"), [(17, ()), (16, ()), (15, ("max_tokens=15",))])
def test_completions_default_of_16_tokens_is_clamped_only_above_the_limit(limit, clamped):
    outcome = resolved({}, endpoint=Endpoint.COMPLETIONS, limits=Limits(max_tokens=limit))
    assert outcome.clamped == clamped
    assert ("max_tokens" in outcome.body) == bool(clamped)


def test_the_body_beats_the_header_and_blank_is_no_preset():
    assert resolved({"preset": "factual"}, preset_header="code").body["temperature"] == 0
    assert resolved({"preset": None}, preset_header=" code ").body["temperature"] == 0.2
    assert resolved({"preset": ""}, preset_header=" ").body == {}
    with pytest.raises(UnknownPreset):
        resolved({}, preset_header="nope")


@pytest.mark.parametrize(
    "request_form",
    [
        {"response_format": {"type": "text"}},
        {"structured_outputs": {"regex": "a"}},
        {"tools": [{"type": "function"}]},
    ],
)
def test_a_layer_adds_no_form_to_a_request_that_has_one(request_form):
    tenant = Layer("tenant", {"response_format": {"type": "json_object"}})
    assert resolved(request_form, tenant=tenant).body == request_form
    assert "response_format" in resolved({}, tenant=tenant).body


def test_a_lower_layer_adds_no_form_to_a_higher_ones():
    tenant = Layer("tenant", {"structured_outputs": {"regex": "a"}})
    adapter = Layer("adapter", {"response_format": {"type": "json_object"}})
    assert resolved({}, tenant=tenant, adapter=adapter).body == {"structured_outputs": {"regex": "a"}}


def test_defaults_are_not_shared_between_requests():
    tenant = Layer("tenant", {"stop": ["a"], "chat_template_kwargs": {"x": {"y": 1}}})
    first = resolved({}, tenant=tenant).body
    first["stop"].append("b")
    first["chat_template_kwargs"]["x"]["y"] = 2
    assert resolved({}, tenant=tenant).body == {"stop": ["a"], "chat_template_kwargs": {"x": {"y": 1}}}


@pytest.mark.parametrize("temperature", [1e-9, 0.0099])
def test_a_temperature_that_the_engine_would_raise_is_raised_and_told(temperature):
    outcome = resolved({"temperature": temperature})
    assert outcome.body == {"temperature": 0.01}
    assert outcome.clamped == ("temperature=0.01",)


@pytest.mark.parametrize("temperature", [0, 0.0, 0.01, 2])
def test_other_temperatures_stay(temperature):
    assert resolved({"temperature": temperature}).clamped == ()


def test_several_greedy_answers_are_refused_with_the_reason():
    with pytest.raises(
        InvalidParameter, match=r"n must be 1 when temperature is 0 \(set by preset:factual\), got 2"
    ):
        resolved({"n": 2, "preset": "factual"})
    assert resolved({"n": 2, "temperature": 0, "use_beam_search": True}).body["n"] == 2
    assert resolved({"n": 2, "temperature": 0.5}).body["n"] == 2


def test_min_tokens_above_max_tokens_is_refused_with_the_reason():
    with pytest.raises(InvalidParameter, match=r"at most max_tokens=10 \(set by limit\), got 20"):
        resolved({"min_tokens": 20}, limits=Limits(max_tokens=10))
    with pytest.raises(InvalidParameter, match=r"at most max_tokens=16 \(set by the default\), got 20"):
        resolved({"min_tokens": 20}, endpoint=Endpoint.COMPLETIONS)
    assert resolved({"min_tokens": 20}).body == {"min_tokens": 20}


@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        (Endpoint.CHAT, {"max_tokens": 5}, 5),
        (Endpoint.CHAT, {"max_tokens": 30}, 20),
        (Endpoint.CHAT, {"max_tokens": 5, "max_completion_tokens": 9}, 9),
        (Endpoint.CHAT, {}, 20),
        (Endpoint.COMPLETIONS, {}, 16),
    ],
)
def test_a_default_min_tokens_gives_way(endpoint, body, expected):
    tenant = Layer("tenant", {"min_tokens": 20})
    assert resolved(body, endpoint=endpoint, tenant=tenant).body["min_tokens"] == expected


def test_errors_of_the_parts_come_through():
    with pytest.raises(InvalidParameter):
        resolved({"temperature": 9})
    with pytest.raises(LimitExceeded):
        resolved({"n": 9}, limits=Limits(n=2))


@given(limit=st.integers(1, 100), request=fields, tenant=fields, endpoint=st.sampled_from(Endpoint))
def test_no_combination_escapes_the_token_limit(limit, request, tenant, endpoint):
    if endpoint is Endpoint.MESSAGES:
        request = {name: value for name, value in request.items() if name not in NOT_ON_MESSAGES}
    body = {NAMES[endpoint].get(name, name): value for name, value in request.items()}
    outcome = resolved(
        body, endpoint=endpoint, tenant=Layer("tenant", tenant), limits=Limits(max_tokens=limit)
    )
    name = NAMES[endpoint].get("max_tokens", "max_tokens")
    most = outcome.body.get(name, 16 if endpoint is Endpoint.COMPLETIONS else None)
    assert most is not None
    assert most <= limit
    asked = request.get(
        "max_tokens", tenant.get("max_tokens", 16 if endpoint is Endpoint.COMPLETIONS else 10**9)
    )
    assert outcome.clamped == ((f"max_tokens={limit}",) if asked > limit else ())
