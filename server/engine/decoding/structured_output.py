"""Chooses, for each request, the library that enforces structured output.

vLLM chooses a library for each request (`SamplingParams._validate_structured_output`), but then uses the first
request's library for all later requests (`StructuredOutputManager.grammar_init`). Between tenants this means that
the first request decides whether another tenant's `multipleOf` or `maxLength` is enforced or silently ignored.

vLLM also allows unlimited white space between JSON tokens, and a model that cannot write what it prefers then writes
white space until `max_tokens` (vllm#38696). Here the white space is bounded.

Leans on (vLLM 0.32): vllm.v1.structured_output.StructuredOutputManager (`backend`, `tokenizer`, `vllm_config`),
backend_types.StructuredOutputBackend, the three backends, and the two functions that detect features that xgrammar
and guidance do not support. The backends import their library at first use, and so do we.
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

#: Most white space between two JSON tokens: a line end and seven levels of two columns; deeper levels indent less.
MAX_WHITESPACE_CHARS = 16

#: llguidance's options in a schema; separators are regular expressions. The form is that of json.dumps.
_ON_ONE_LINE = {"whitespace_flexible": False, "key_separator": ": ?", "item_separator": ", ?"}


def choose_for_each_request(manager: StructuredOutputManager) -> None:
    """Install `ChoosingBackend`, unless the operator set a backend in --engine-args."""
    config = manager.vllm_config
    if config.structured_outputs_config.backend == "auto" and not config.model_config.skip_tokenizer_init:
        manager.backend = ChoosingBackend(
            config, tokenizer=manager.tokenizer, vocab_size=config.model_config.get_vocab_size()
        )


@dataclass
class ChoosingBackend(StructuredOutputBackend):
    """Uses the first library that supports the grammar: xgrammar, then guidance, then outlines.

    Thread-safe: several threads call it.
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
        """See `StructuredOutputBackend`. Raises: the error of the last candidate."""
        *others, last = _candidates(request_type, grammar_spec)
        for kind in others:
            try:
                return self._of(kind).compile_grammar(request_type, grammar_spec, stop_token_ids)
            except (RuntimeError, ValueError) as error:  # xgrammar's, and vLLM's for expressions
                # NOTE: not the error's text, which repeats a tenant's input.
                logger.info("%s does not support a grammar: %s", kind.__name__, type(error).__name__)
        return self._of(last).compile_grammar(request_type, grammar_spec, stop_token_ids)

    def allocate_token_bitmask(self, max_num_seqs: int) -> torch.Tensor:
        """One bit per vocabulary entry and sequence, [max_num_seqs, V / 32] int32, alike in all libraries."""
        mask: torch.Tensor = self._of(BoundedXgrammar).allocate_token_bitmask(max_num_seqs)
        return mask

    def destroy(self) -> None:
        """See `StructuredOutputBackend`."""
        for backend in self._built.values():
            backend.destroy()

    def _of(self, kind: type[StructuredOutputBackend]) -> StructuredOutputBackend:
        with self._building:
            if kind not in self._built:
                self._built[kind] = kind(self.vllm_config, self.tokenizer, self.vocab_size)
            return self._built[kind]


class BoundedXgrammar(XgrammarBackend):
    """xgrammar with bounded white space."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.disable_any_whitespace:
            self.compiler.compile_json_schema = partial(
                self.compiler.compile_json_schema, max_whitespace_cnt=MAX_WHITESPACE_CHARS
            )


class BoundedGuidance(GuidanceBackend):
    """guidance with JSON on one line, because its white space cannot be bounded (`%ignore` repeats)."""

    def compile_grammar(
        self,
        request_type: StructuredOutputOptions,
        grammar_spec: str,
        stop_token_ids: set[int] | None = None,
    ) -> StructuredOutputGrammar:
        """See `StructuredOutputBackend`. Raises: ValueError: guidance does not support the grammar."""
        if request_type is StructuredOutputOptions.JSON and not self.disable_any_whitespace:
            grammar_spec = json.dumps(json.loads(grammar_spec) | {"x-guidance": _ON_ONE_LINE})
        grammar = super().compile_grammar(request_type, grammar_spec, stop_token_ids)
        # NOTE: vLLM only logs this error, and the answer would end before its first token.
        if fault := grammar.ll_matcher.get_error():
            raise ValueError(fault)
        return grammar


def _candidates(request_type: StructuredOutputOptions, spec: str) -> Iterator[type[StructuredOutputBackend]]:
    schema: Any = json.loads(spec) if request_type is StructuredOutputOptions.JSON else {}
    if not has_xgrammar_unsupported_json_features(schema):
        yield BoundedXgrammar
    if not has_guidance_unsupported_json_features(schema):
        yield BoundedGuidance
    else:
        yield OutlinesBackend
