"""Every answer that a prepared grammar accepts is valid for its schema by another implementation, or was refused.

Random schemas of all keywords go through the preparation and into the grammar that the engine loads, as the format of
an answer and as the parameters of a forced tool call. Random walks through the grammar must be valid; random values
near to the schema and changed walks that are not valid must not be accepted.
"""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema_rs
import pytest
from example_counts import examples
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from vllm.exceptions import VLLMValidationError

from server.engine.decoding.grammars.errors import GrammarRefused
from tests.unit.server.engine.decoding.grammars.grammar_rig import GrammarRig
from tests.unit.server.engine.decoding.grammars.random_schemas import NAMES, SCALARS, documents, values

WALKS = 4
CHANGES = 6
#: Of what is accepted: a test that refuses everything shows nothing.
MIN_SHARE = 0.2

FORMS = {
    "answer": lambda rig, schema: {"json": schema},
    "tool": lambda rig, schema: {"structural_tag": rig.forced_call(schema)},
}


def check_schema(
    rig: GrammarRig, form: str, schema: dict[str, Any], near: list[Any], draw: random.Random
) -> int:
    """Whether the schema is accepted, after its grammar was tried."""
    try:
        _, name = rig.prepared(**FORMS[form](rig, schema))
    except (GrammarRefused, VLLMValidationError):
        return 0
    asked = {"allOf": [{"type": "object"}, schema]} if form == "tool" else schema
    if "$defs" in schema:
        asked = {**asked, "$defs": schema["$defs"]}
    validator = jsonschema_rs.Draft202012Validator(asked, validate_formats=True)
    walked = []
    for _ in range(WALKS):
        text = rig.walk(name, draw, json.dumps(schema))
        if text is not None:
            answer = rig.arguments(text) if form == "tool" else text
            value = parsed(answer)
            assert validator.is_valid(value), f"{form} {json.dumps(schema)} lets pass {answer}"
            walked.append(value)
    changed = [changed_value(draw.choice(walked), draw) for _ in range(CHANGES if walked else 0)]
    for value in [*near, *changed]:
        if not validator.is_valid(value):
            text = json.dumps(value)
            accepted = rig.accepts(name, rig.call_of(text) if form == "tool" else text)
            assert not accepted, f"{form} {json.dumps(schema)} accepts {text}"
    return 1


def parsed(text: str) -> Any:
    """A value of JSON; a number that no double holds counts as the largest one."""
    return json.loads(text, parse_float=lambda number: max(-1e308, min(1e308, float(number))))


def changed_value(value: Any, draw: random.Random) -> Any:
    """A value with one change somewhere within it."""
    if isinstance(value, dict) and value and draw.random() < 0.5:
        name = draw.choice(sorted(value))
        return {**value, name: changed_value(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.5:
        at = draw.randrange(len(value))
        return [*value[:at], changed_value(value[at], draw), *value[at + 1 :]]
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if draw.random() < 0.7}
        return kept | ({draw.choice([*NAMES, "c"]): draw.choice(SCALARS)} if draw.random() < 0.6 else {})
    if isinstance(value, list):
        return [item for item in value if draw.random() < 0.7] + value[: draw.randrange(2)]
    if isinstance(value, str) and draw.random() < 0.7:
        at = draw.randrange(len(value) + 1)
        return (
            value[:at] + draw.choice(["", "a", "1", '"', "\\", "\n", value]) + value[at + draw.randrange(2) :]
        )
    if isinstance(value, int | float) and not isinstance(value, bool) and draw.random() < 0.7:
        return value + draw.choice([-1, 1, 0.5, 10])
    return draw.choice(SCALARS)


def check_random_schemas(rig: GrammarRig, form: str, count: int) -> None:
    accepted = []

    @settings(
        max_examples=count,
        database=None,
        phases=[Phase.generate],  # a smaller schema is no better than the seed, and takes minutes
        suppress_health_check=list(HealthCheck),
    )
    @given(documents(form == "tool"), st.lists(values, min_size=8, max_size=8), st.integers(0, 1 << 30))
    def check(schema: dict[str, Any], near: list[Any], seed: int) -> None:
        accepted.append(check_schema(rig, form, schema, near, random.Random(seed)))

    check()
    assert sum(accepted) > MIN_SHARE * len(accepted), "too few schemas were accepted"


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_what_is_accepted_is_valid(rig: GrammarRig, form: str) -> None:
    check_random_schemas(rig, form, examples(150, least=100))


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("form", FORMS)
def test_what_is_accepted_is_valid_for_thousands(rig: GrammarRig, form: str) -> None:
    check_random_schemas(rig, form, 2000)
