"""Answers of a form that the request gives: the library that enforces it is chosen for each request.

vLLM chooses one for each request (`SamplingParams._validate_structured_output`) and then builds that of the first
request for all that follow (`StructuredOutputManager.grammar_init`). Among tenants this means that who came first
decides whether another's `multipleOf` or `maxLength` is kept, or passed over without a word.

And it allows any amount of white space between JSON's tokens: a model that is kept from what it wants to say stays in
it until `max_tokens` (vllm#38696). Here a gap has a bound.

Leans on (vLLM 0.32): vllm.v1.structured_output.StructuredOutputManager (`backend`, `tokenizer`, `vllm_config`),
backend_types.StructuredOutputBackend, the three backends, and the two functions that say what xgrammar and guidance
lack. They import their library when they are used first, and so do we.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import torch
from vllm.logger import init_logger
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.backend_guidance import (
    GuidanceBackend,
    has_guidance_unsupported_json_features,
)
from vllm.v1.structured_output.backend_outlines import OutlinesBackend
from vllm.v1.structured_output.backend_types import (
    StructuredOutputBackend,
    StructuredOutputGrammar,
    StructuredOutputOptions,
)
from vllm.v1.structured_output.backend_xgrammar import (
    XgrammarBackend,
    has_xgrammar_unsupported_json_features,
)

logger = init_logger(__name__)

#: Characters between two tokens of JSON: a line's end and seven levels of two columns. Deeper ones are indented less.
MAX_WHITESPACE_CHARS = 16

#: llguidance's options within a schema; separators are regular expressions. `{"a": 1, "b": 2}`, as json.dumps has it.
_ON_ONE_LINE = {"whitespace_flexible": False, "key_separator": ": ?", "item_separator": ", ?"}


def choose_for_each_request(manager: StructuredOutputManager) -> None:
    """Give the manager a backend that chooses, unless the operator named one in --engine-args."""
    config = manager.vllm_config
    if config.structured_outputs_config.backend == "auto" and not config.model_config.skip_tokenizer_init:
        manager.backend = ChoosingBackend(
            config, tokenizer=manager.tokenizer, vocab_size=config.model_config.get_vocab_size()
        )


@dataclass
class ChoosingBackend(StructuredOutputBackend):
    """xgrammar, or guidance for what that lacks, or outlines for what both lack; the first that takes it.

    Called from several threads.
    """

    def __post_init__(self) -> None:
        self._built: dict[type[StructuredOutputBackend], StructuredOutputBackend] = {}
        self._building = Lock()

    def compile_grammar(
        self,
        request_type: StructuredOutputOptions,
        grammar_spec: str,
        stop_token_ids: set[int] | None = None,
    ) -> StructuredOutputGrammar:
        """As every backend's. Raises: what the last backend in question raises."""
        *others, last = _kinds(request_type, grammar_spec)
        for kind in others:
            try:
                return self._of(kind).compile_grammar(request_type, grammar_spec, stop_token_ids)
            except (RuntimeError, ValueError) as error:  # xgrammar's, and vLLM's for expressions
                # NOTE: not its text, which repeats what a tenant sent.
                logger.info("%s does not take a grammar: %s", kind.__name__, type(error).__name__)
        return self._of(last).compile_grammar(request_type, grammar_spec, stop_token_ids)

    def allocate_token_bitmask(self, max_num_seqs: int) -> torch.Tensor:
        """A bit for each word and sequence, (max_num_seqs, words / 32) int32; all three libraries fill it alike."""
        mask: torch.Tensor = self._of(BoundedXgrammar).allocate_token_bitmask(max_num_seqs)
        return mask

    def destroy(self) -> None:
        """As every backend's."""
        for backend in self._built.values():
            backend.destroy()

    def _of(self, kind: type[StructuredOutputBackend]) -> StructuredOutputBackend:
        with self._building:
            if kind not in self._built:
                self._built[kind] = kind(self.vllm_config, self.tokenizer, self.vocab_size)
            return self._built[kind]


class BoundedXgrammar(XgrammarBackend):
    """xgrammar with little white space."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.disable_any_whitespace:
            self.compiler.compile_json_schema = partial(
                self.compiler.compile_json_schema, max_whitespace_cnt=MAX_WHITESPACE_CHARS
            )


class BoundedGuidance(GuidanceBackend):
    """guidance with little white space: all on one line, since its gaps have no length (`%ignore` repeats)."""

    def compile_grammar(
        self,
        request_type: StructuredOutputOptions,
        grammar_spec: str,
        stop_token_ids: set[int] | None = None,
    ) -> StructuredOutputGrammar:
        """As every backend's. Raises: ValueError: guidance does not take the grammar."""
        if request_type is StructuredOutputOptions.JSON and not self.disable_any_whitespace:
            grammar_spec = json.dumps(json.loads(grammar_spec) | {"x-guidance": _ON_ONE_LINE})
        grammar = super().compile_grammar(request_type, grammar_spec, stop_token_ids)
        # NOTE: vLLM only logs it, and the answer would end before its first word.
        if fault := grammar.ll_matcher.get_error():
            raise ValueError(fault)
        return grammar


def _kinds(request_type: StructuredOutputOptions, spec: str) -> Iterator[type[StructuredOutputBackend]]:
    schema: Any = json.loads(spec) if request_type is StructuredOutputOptions.JSON else {}
    if not has_xgrammar_unsupported_json_features(schema):
        yield BoundedXgrammar
    if not has_guidance_unsupported_json_features(schema):
        yield BoundedGuidance
    else:
        yield OutlinesBackend
