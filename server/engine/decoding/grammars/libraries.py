"""The libraries that enforce a grammar, as the worker that compiles it first and the engine both use them.

vLLM allows unlimited white space between JSON tokens, and a model that cannot write what it prefers then writes
white space until `max_tokens` (vllm#38696). Here the white space is bounded, unless the operator names a library in
--engine-args: then that library is used as vLLM uses it.

Leans on (vLLM 0.32): backend_types.StructuredOutputBackend and the four backends of vllm.v1.structured_output; their
dataclasses XgrammarGrammar, GuidanceGrammar and OutlinesGrammar. The backends import their library at first use.
"""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

import llguidance
import xgrammar
from vllm.config import VllmConfig
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.structured_output.backend_guidance import (
    GuidanceBackend,
    GuidanceGrammar,
    serialize_guidance_grammar,
)
from vllm.v1.structured_output.backend_lm_format_enforcer import LMFormatEnforcerBackend
from vllm.v1.structured_output.backend_outlines import OutlinesBackend
from vllm.v1.structured_output.backend_types import (
    StructuredOutputBackend,
    StructuredOutputGrammar,
    StructuredOutputOptions,
)
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

from server.engine.decoding.grammars.lark import as_lark

#: Most white space between two JSON tokens: a line end and seven levels of two columns; deeper levels indent less.
MAX_WHITESPACE_CHARS = 16
#: llguidance's options in a schema; separators are regular expressions. The form is that of json.dumps.
_ON_ONE_LINE = {"whitespace_flexible": False, "key_separator": ": ?", "item_separator": ", ?"}
#: llguidance's bounds of one grammar and of one step of it; a state of its lexer takes 1 to 2 kB.
_LIMITS = llguidance.LLParserLimits(max_lexer_states=20_000, step_max_items=20_000)


class Xgrammar(XgrammarBackend):
    """vLLM's xgrammar with a compiler of few threads and without its cache, which all tenants would share."""

    def __post_init__(self) -> None:
        super().__post_init__()
        vllm_compiler: Any = getattr(self, "compiler")  # noqa: B009 - its type is unknown
        self.tokenizer_info = vllm_compiler.compile_grammar('root ::= "a"').tokenizer_info
        threads = max(1, min(8, len(os.sched_getaffinity(0)) // 4))
        self.compiler = xgrammar.GrammarCompiler(
            self.tokenizer_info, max_threads=threads, cache_enabled=False
        )


class BoundedXgrammar(Xgrammar):
    """xgrammar with bounded white space."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.disable_any_whitespace:
            compiler: Any = self.compiler
            compiler.compile_json_schema = partial(
                compiler.compile_json_schema, max_whitespace_cnt=MAX_WHITESPACE_CHARS
            )


class Guidance(GuidanceBackend):
    """vLLM's guidance with bounds; a grammar that it refuses is an error, where vLLM only logs it."""

    def compile_grammar(
        self,
        request_type: StructuredOutputOptions,
        grammar_spec: str,
        stop_token_ids: set[int] | None = None,
    ) -> StructuredOutputGrammar:
        """See `StructuredOutputBackend`. Raises: ValueError: guidance does not support the grammar."""
        serialized = serialize_guidance_grammar(
            request_type, grammar_spec, self.disable_any_whitespace, self.disable_additional_properties
        )
        return self._grammar(serialized)

    def _grammar(self, serialized: str) -> GuidanceGrammar:
        """A grammar of llguidance at its beginning. Raises: ValueError: guidance does not support it."""
        matcher = llguidance.LLMatcher(self.ll_tokenizer, serialized, log_level=0, limits=_LIMITS)
        if fault := matcher.get_error():
            raise ValueError(fault)
        # NOTE: `printed_error` keeps vLLM from logging the whole grammar, which a tenant has sent.
        return GuidanceGrammar(matcher, self.ll_tokenizer, self.vocab_size, printed_error=True)


class BoundedGuidance(Guidance):
    """guidance with JSON on one line, because its white space cannot be bounded (`%ignore` repeats).

    It takes structural tags of the present form.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        added = self.tokenizer.get_added_vocab().items()
        self._special = {text: token for text, token in added if self.ll_tokenizer.is_special_token(token)}

    def compile_grammar(
        self,
        request_type: StructuredOutputOptions,
        grammar_spec: str,
        stop_token_ids: set[int] | None = None,
    ) -> StructuredOutputGrammar:
        """See `StructuredOutputBackend`. Raises: ValueError: guidance does not support the grammar."""
        if request_type is StructuredOutputOptions.STRUCTURAL_TAG:
            return self._grammar(as_lark(json.loads(grammar_spec), _ON_ONE_LINE, self._special))
        if request_type is StructuredOutputOptions.JSON and not self.disable_any_whitespace:
            schema = json.loads(grammar_spec)
            if isinstance(schema, dict):  # not `true`
                grammar_spec = json.dumps(schema | {"x-guidance": _ON_ONE_LINE})
        return super().compile_grammar(request_type, grammar_spec, stop_token_ids)


class Libraries:
    """The backends of one model, each built at its first use. Not thread-safe.

    Attributes:
        named: the library that the operator named in --engine-args; None for "auto".
    """

    def __init__(self, config: VllmConfig, tokenizer: Any = None) -> None:
        self._config = config
        self.tokenizer = tokenizer or cached_tokenizer_from_config(model_config=config.model_config)
        self.vocab_size = config.model_config.get_vocab_size()
        backend = config.structured_outputs_config.backend
        self.named = None if backend == "auto" else backend
        bounded = self.named is None
        self._kinds: dict[str, type[StructuredOutputBackend]] = {
            "xgrammar": BoundedXgrammar if bounded else Xgrammar,
            "guidance": BoundedGuidance if bounded else Guidance,
            "outlines": OutlinesBackend,
            "lm-format-enforcer": LMFormatEnforcerBackend,
        }
        self._built: dict[str, StructuredOutputBackend] = {}

    def __getitem__(self, name: str) -> Any:
        """The backend of a library: `StructuredOutputBackend`, or what is derived from it."""
        if name not in self._built:
            self._built[name] = self._kinds[name](self._config, self.tokenizer, self.vocab_size)
        return self._built[name]

    def destroy(self) -> None:
        """Free the backends."""
        for backend in self._built.values():
            backend.destroy()
