"""The hostile inputs are what they say: many, distinct, and below the server's cap of a body."""

from __future__ import annotations

import json

import pytest

from benchmarks.hostile.inputs import BY_NAME, INPUTS
from benchmarks.hostile.victims import VICTIMS
from server.config.settings import Settings

#: Bodies that are not JSON on purpose; all others have to cost more than a syntax error.
_MALFORMED = {"json_brackets", "archive_of_zeros", "header_of_values", "header_of_tensors"}
#: Bodies of more than a few MB take seconds to build and to parse here.
_SMALL = (
    "schema_of_itself",
    "schema_choices",
    "schema_lengths",
    "grammar_of_itself",
    "structural_tags",
    "logprobs",
    "choices_128",
    "batch_1024",
)


def test_there_are_at_least_twenty_with_their_own_names() -> None:
    assert len(INPUTS) >= 20
    assert len(BY_NAME) == len(INPUTS)


@pytest.mark.parametrize("name", _SMALL)
def test_small_inputs_are_json(name: str) -> None:
    assert isinstance(json.loads(BY_NAME[name].build()), dict)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_every_input_reaches_the_server(name: str) -> None:
    body = BY_NAME[name].build()
    assert 0 < len(body) <= Settings.model_fields["max_body_bytes"].default
    if name not in _MALFORMED:
        json.loads(body) if name not in ("json_nested", "json_digits") else body.decode()


def test_victims_have_other_tenants() -> None:
    assert "hostile" not in {victim.tenant for victim in VICTIMS}
