"""Presets: the built-in ones, the operator's own, and names that do not exist."""

from __future__ import annotations

import json

import pytest

from sampling.defaults import Layer, model_defaults
from sampling.endpoints import Endpoint
from sampling.errors import InvalidDefault, InvalidPreset, UnknownPreset
from sampling.presets import Presets


def test_built_in_values():
    assert Presets().listed() == {
        "factual": {"temperature": 0.0, "max_tokens": 256},
        "chat": {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1, "max_tokens": 512},
        "creative": {"temperature": 1.0, "top_p": 0.95, "repetition_penalty": 1.0, "max_tokens": 1024},
        "code": {"temperature": 0.2, "top_p": 0.9, "max_tokens": 1024},
        "function_calling": {"temperature": 0.0, "max_tokens": 256},
    }


def test_listing_is_json_and_a_copy():
    presets = Presets().with_custom({"short": {"stop": ["\n"]}})
    listed = json.loads(json.dumps(presets.listed()))
    assert listed["short"] == {"stop": ["\n"]}
    presets.listed()["short"]["stop"].append("x")
    assert presets.listed()["short"] == {"stop": ["\n"]}


def test_custom_presets_add_and_replace_but_leave_the_original_alone():
    original = Presets()
    extended = original.with_custom({"chat": {"temperature": 0.5}, "terse": {"max_tokens": 20}})
    assert extended.find("chat").defaults == {"temperature": 0.5}
    assert extended.find("terse").origin == "preset:terse"
    assert extended.find("code") == original.find("code")
    assert original.find("chat").defaults["temperature"] == 0.7


def test_unknown_preset_names_the_nearest_and_all():
    with pytest.raises(UnknownPreset) as caught:
        Presets().find("Creativ")
    assert str(caught.value) == (
        "There is no preset 'Creativ'. Did you mean 'creative'? "
        "Presets: factual, chat, creative, code, function_calling."
    )
    assert caught.value.param == "preset"
    with pytest.raises(UnknownPreset, match="Did you mean 'chat'"):
        Presets().find("CHAT")
    with pytest.raises(UnknownPreset, match=r"There is no preset 'zzz'\. Presets:"):
        Presets().find("zzz")


@pytest.mark.parametrize("name", ["", "Chat", "a b", "1st", "x" * 65, "a\nb"])
def test_preset_names(name):
    with pytest.raises(InvalidPreset):
        Presets().with_custom({name: {"temperature": 0}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperture": 1}, "mine: temperture is not a decoding option; did you mean temperature"),
        ({"zzzzz": 1}, "options: allowed_token_ids, bad_words"),
        ({"max_output_tokens": 5}, "max_output_tokens is not a decoding option; did you mean"),
        ({"temperature": 3}, "temperature must be a number from 0 to 2, got 3"),
        ({"n": 2}, "n can only be set by a request"),
        ({"preset": "chat"}, "preset can only be set by a request"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "structured_outputs cannot be combined with response_format",
        ),
    ],
)
def test_a_layer_refuses_what_no_request_could_send(fields, message):
    with pytest.raises(InvalidDefault) as caught:
        Layer("mine", fields)
    assert message in str(caught.value)


def test_a_layer_is_a_copy_and_drops_nulls():
    stops = ["a"]
    layer = Layer("tenant", {"stop": stops, "seed": None})
    stops.append("b")
    assert layer.defaults == {"stop": ["a"]}
    with pytest.raises(TypeError):
        layer.defaults["temperature"] = 1  # type: ignore[index]


def test_what_an_endpoint_cannot_carry_is_kept_apart():
    layer = Layer("tenant", {"temperature": 0.5, "repetition_penalty": 1.1, "stop": "x"})
    placed = {name: value for _, name, value in layer.placed[Endpoint.MESSAGES]}
    assert placed == {"temperature": 0.5, "stop_sequences": ["x"]}
    assert layer.unplaced[Endpoint.MESSAGES] == {"repetition_penalty": 1.1}
    assert layer.unplaced[Endpoint.CHAT] == {}


def test_model_defaults_takes_what_vllm_takes():
    config = {
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 2.0,
        "eos_token_id": [1],
        "do_sample": True,
        "min_p": None,
    }
    assert model_defaults(config) == Layer("model", {"temperature": 0.7, "top_k": 20})
