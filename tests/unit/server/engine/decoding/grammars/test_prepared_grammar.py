"""vLLM's own validation of grammars does not run on the event loop, and what replaces it is really called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from vllm.entrypoints.generate.base import protocol
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.exceptions import VLLMValidationError
from vllm.parser import abstract_parser
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output import backend_xgrammar

from server.engine.decoding.grammars import prepared_grammar
from server.engine.decoding.grammars.prepared_grammar import PreparedGrammar, validate_only_unprepared

#: vLLM refuses it while it validates a body: it has no such type.
ODD_TAG = '{"type": "structural_tag", "format": {"type": "none of these"}}'
BODIES: tuple[tuple[type[Any], dict[str, Any]], ...] = (
    (ChatCompletionRequest, {"model": "m", "messages": [{"role": "user", "content": "a"}]}),
    (CompletionRequest, {"model": "m", "prompt": "a"}),
)


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(
        SamplingParams, "_validate_structured_outputs", SamplingParams._validate_structured_outputs
    )
    monkeypatch.setattr(protocol, "validate_structural_tag_payload", protocol.validate_structural_tag_payload)
    for name in ("_xgrammar_supports", "structured_outputs_to_format"):
        monkeypatch.setattr(abstract_parser, name, getattr(abstract_parser, name))
    validate_only_unprepared()
    yield


@pytest.mark.parametrize(("model", "body"), BODIES)
def test_vllm_converts_a_tag_while_it_validates_a_body(
    model: type[Any], body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason for the replacement; if this fails, vLLM has changed and it may not be needed any more."""
    monkeypatch.setattr(
        protocol, "validate_structural_tag_payload", prepared_grammar._vllm_validate_payload
    )  # whatever another test has installed
    with pytest.raises(VLLMValidationError, match="structural_tag"):
        model.model_validate(body | {"structured_outputs": {"structural_tag": ODD_TAG}})


@pytest.mark.usefixtures("replaced")
@pytest.mark.parametrize(("model", "body"), BODIES)
@pytest.mark.parametrize(
    "form",
    [
        {"structured_outputs": {"structural_tag": ODD_TAG}},
        {"response_format": {"type": "structural_tag", "format": {"type": "none of these"}}},
    ],
)
def test_a_tag_is_not_converted_on_the_event_loop(
    model: type[Any], body: dict[str, Any], form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(backend_xgrammar, "validate_xgrammar_grammar", fail)
    model.model_validate(body | form)


@pytest.mark.usefixtures("replaced")
@pytest.mark.parametrize("tag", ["", "  ", 5])
def test_what_is_no_text_is_refused_at_once(tag: object) -> None:
    model, body = BODIES[0]
    with pytest.raises(VLLMValidationError):
        model.model_validate(body | {"structured_outputs": {"structural_tag": tag}})


@pytest.mark.usefixtures("replaced")
def test_only_what_is_prepared_escapes_the_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    module = "server.engine.decoding.grammars.prepared_grammar._validate"
    monkeypatch.setattr(module, lambda params, *arguments: seen.append(params.structured_outputs))
    for wanted in (PreparedGrammar(grammar="prepared"), StructuredOutputsParams(regex="a")):
        SamplingParams(structured_outputs=wanted)._validate_structured_outputs(None, None, None)
    assert seen == [StructuredOutputsParams(regex="a")]
