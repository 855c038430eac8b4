"""Keeps vLLM from compiling grammars on the event loop: a worker process does, before the engine sees the request.

vLLM converts structural tags with xgrammar while it validates a body, a grammar beside tools before it makes one tag
of both, and every grammar once more when a request is added. All of it runs on the event loop, where a tag can take
seconds, or end the process. Our workers convert a grammar beside tools, and guidance may enforce it as well.

Leans on (vLLM 0.32): StructuredOutputsParams, SamplingParams._validate_structured_outputs (replaced),
vllm.entrypoints.generate.base.protocol.validate_structural_tag_payload (replaced), through which the models of chat
and completion requests validate a tag, and vllm.parser.abstract_parser._xgrammar_supports and
structured_outputs_to_format (replaced).
"""

from __future__ import annotations

from typing import Any

from vllm.entrypoints.generate.base import protocol
from vllm.exceptions import VLLMValidationError
from vllm.parser import abstract_parser
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from xgrammar.structural_tag import GrammarFormat


class PreparedGrammar(StructuredOutputsParams):
    """Names a prepared grammar; vLLM does not validate it again."""


_validate: Any = SamplingParams._validate_structured_outputs
_vllm_validate_payload: Any = protocol.validate_structural_tag_payload
_convert: Any = abstract_parser.structured_outputs_to_format


def validate_only_unprepared() -> None:
    """Replace these functions of vLLM in this process. Idempotent."""
    SamplingParams._validate_structured_outputs = _validate_unprepared
    protocol.validate_structural_tag_payload = _validate_payload
    abstract_parser._xgrammar_supports = lambda structured_outputs: True
    abstract_parser.structured_outputs_to_format = _as_format


def _validate_unprepared(self: SamplingParams, *arguments: Any) -> None:
    if not isinstance(self.structured_outputs, PreparedGrammar):
        _validate(self, *arguments)


def _validate_payload(payload: Any, *, parameter: str) -> None:
    if not isinstance(payload, str) or not payload.strip():
        raise VLLMValidationError(f"{parameter} has no structural tag.", parameter=parameter)


def _as_format(params: StructuredOutputsParams) -> Any:
    """A grammar stays as it is, Lark or not."""
    return GrammarFormat(grammar=params.grammar) if params.grammar is not None else _convert(params)
