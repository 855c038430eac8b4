"""Compiles grammars in a process that can be ended: validation, the choice of the library, the compiler, and a trial.

What a worker has compiled and tried, the engine can take from a file (`files`): it reads the library's compiled form,
or compiles it again, whichever takes less time.

Leans on (vLLM 0.32): SamplingParams._validate_structured_outputs, StructuredOutputsParams, get_structured_output_key,
StructuredOutputOptions, choice_as_grammar.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xgrammar
from vllm.config import VllmConfig
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar, StructuredOutputOptions
from vllm.v1.structured_output.request import get_structured_output_key
from vllm.v1.structured_output.utils import choice_as_grammar

from sampling.json_limits import measure
from server.engine.decoding.grammars import files, probe
from server.engine.decoding.grammars.endless import is_endless
from server.engine.decoding.grammars.errors import GrammarRefused, TooComplex, reason_of
from server.engine.decoding.grammars.json_schema.kept_keywords import keeps_schema
from server.engine.decoding.grammars.json_schema.normal_form import normal_form
from server.engine.decoding.grammars.json_schema.patterns import keeps_pattern
from server.engine.decoding.grammars.libraries import MAX_WHITESPACE_CHARS, Libraries
from server.engine.decoding.grammars.structural_tags import keeps_tag, normal_tag

#: Below so much processor time the engine compiles a grammar again instead of reading its compiled form.
RECOMPILE_S = 0.25
#: Most processor time that the engine may spend on one grammar before its first token.
ENGINE_S = 2.0
#: Most bytes of a compiled grammar: in the engine's memory, and on disk, where xgrammar's form is many times larger.
MEMORY_BYTES, FILE_BYTES = 64 << 20, 128 << 20

#: What the libraries and vLLM raise for grammars that they do not take; any other error is a fault of ours.
_LIBRARY_ERRORS = (
    RuntimeError, ValueError, TypeError, KeyError, AttributeError, RecursionError, VLLMValidationError
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Order:
    """What to compile."""

    params: StructuredOutputsParams
    path: str
    """The file to write."""
    scratch: str
    """A file in the same folder that is written first."""
    max_depth: int | None = None
    """Most levels of nested JSON."""
    tries_all: bool = True
    """Whether all libraries are tried, or only the last one: guidance, which compiles least in advance."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was written."""

    library: str
    is_compiled: bool
    size_bytes: int
    engine_s: float
    """Processor time that the engine will need."""


class Compiler:
    """Compiles and tries grammars for one model."""

    def __init__(self, config: VllmConfig) -> None:
        self._config = config
        self.libraries = Libraries(config)
        # A compilation in advance, so that a tenant's first grammar does not wait for it.
        self.libraries[self.libraries.named or "xgrammar"]

    def compile(self, order: Order) -> Outcome:
        """Check, compile and try a grammar, and write the result. Raises: GrammarRefused, TooComplex."""
        kind, spec = self._validated(order.params)
        try:
            spec = self._normal_form(kind, spec, order.max_depth)
            names = self._candidates(kind, spec)
        except _LIBRARY_ERRORS as error:  # a tag without what its formats need, or a grammar within it
            raise GrammarRefused(f"it is not complete or not valid: {reason_of(error)}") from error
        if is_endless(kind, spec):
            raise GrammarRefused("no finite answer matches it")
        too_complex = False
        reasons: list[str] = []
        for name in names if order.tries_all else names[-1:]:
            try:
                return self._attempt(name, kind, spec, order)
            except TooComplex as error:
                too_complex = True
                reasons.append(f"{name}: {error}")
            except GrammarRefused as error:
                reasons.append(f"{name}: {error}")
            except _LIBRARY_ERRORS as error:
                reasons.append(f"{name}: {reason_of(error)}")
        raise (TooComplex if too_complex else GrammarRefused)("; ".join(reasons))

    def _validated(self, params: StructuredOutputsParams) -> tuple[StructuredOutputOptions, str]:
        """The kind and text of a grammar, as vLLM gives them to its backends. Raises: GrammarRefused."""
        if params.choice is not None and not params.choice:
            raise GrammarRefused("choice is empty")
        if params.json_object is False:
            raise GrammarRefused("json_object must be true; leave it out to get any text")
        for name in ("grammar", "json", "structural_tag"):
            value = getattr(params, name)
            if isinstance(value, str) and not value.strip():
                raise GrammarRefused(f"{name} is empty")
        if params.regex is not None and "\x00" in params.regex:
            raise GrammarRefused("regex must not contain a NUL character")
        if self.libraries.named is not None:
            self._validate_as_vllm(params)
        elif params.choice is not None:
            return StructuredOutputOptions.GRAMMAR, choice_as_grammar(params.choice)
        key: tuple[StructuredOutputOptions, str] = get_structured_output_key(params)
        return key

    def _validate_as_vllm(self, params: StructuredOutputsParams) -> None:
        """vLLM's own validation for the library that the operator named; it may rewrite `params`."""
        holder = SamplingParams(structured_outputs=params)
        options = self._config.structured_outputs_config
        try:
            holder._validate_structured_outputs(self._config.model_config, options, self.libraries.tokenizer)
        except _LIBRARY_ERRORS as error:
            raise GrammarRefused(reason_of(error)) from error

    def _normal_form(self, kind: StructuredOutputOptions, spec: str, max_depth: int | None) -> str:
        """A schema or tag, checked and in normal form; anything else as it is. Raises: GrammarRefused."""
        is_schema = kind is StructuredOutputOptions.JSON
        if not is_schema and kind is not StructuredOutputOptions.STRUCTURAL_TAG:
            return spec
        _check_document(spec, max_depth)
        if self.libraries.named is not None:
            return spec
        document = json.loads(spec)
        return json.dumps(normal_form(document) if is_schema else normal_tag(document, MAX_WHITESPACE_CHARS))

    def _candidates(self, kind: StructuredOutputOptions, spec: str) -> list[str]:
        """The libraries that enforce the grammar, the first one first. Raises: GrammarRefused."""
        if self.libraries.named is not None:
            return [self.libraries.named]
        if kind is StructuredOutputOptions.JSON:
            schema = json.loads(spec)
            if schema is False:
                raise GrammarRefused("the schema `false` accepts no value")
            if schema is not True and not isinstance(schema, dict):
                raise GrammarRefused(f"a schema is an object, not {type(schema).__name__}")
            return ["xgrammar", "guidance"] if keeps_schema(schema) else ["guidance"]
        if kind is StructuredOutputOptions.STRUCTURAL_TAG:
            return ["xgrammar", "guidance"] if keeps_tag(json.loads(spec)) else ["guidance"]
        if kind is StructuredOutputOptions.REGEX and not keeps_pattern(spec):
            return ["guidance"]
        return ["xgrammar", "guidance"]

    def _attempt(self, name: str, kind: StructuredOutputOptions, spec: str, order: Order) -> Outcome:
        """Compile with one library. Raises: GrammarRefused, TooComplex, and what the library raises."""
        backend = self.libraries[name]
        began = time.process_time()
        grammar = backend.compile_grammar(kind, spec)
        compile_s = time.process_time() - began
        seed = hashlib.sha256(spec.encode("utf-8", "replace")).hexdigest()
        probe.probe_grammar(
            _starter(grammar, lambda: backend.compile_grammar(kind, spec)),
            self.libraries.vocab_size,
            seed,
            self.libraries.tokenizer.eos_token_id,
        )
        content, engine_s = spec.encode(), compile_s
        if compile_s > RECOMPILE_S and name == "xgrammar":
            content, engine_s = self._cheaper(grammar, content, compile_s)
        if engine_s > ENGINE_S:
            raise TooComplex(
                f"the engine would need {engine_s:.1f} s of processor time for it, at most {ENGINE_S:g} s"
            )
        is_compiled = engine_s != compile_s
        prepared = files.Prepared(name, kind.name, is_compiled, content)
        size = files.write_grammar(Path(order.path), Path(order.scratch), prepared)
        return Outcome(name, is_compiled, size, engine_s)

    def _cheaper(self, grammar: Any, source: bytes, compile_s: float) -> tuple[bytes, float]:
        """The compiled form and the time to read it, where that is shorter than `compile_s`; or the source."""
        if grammar.ctx.memory_size_bytes > MEMORY_BYTES:
            raise TooComplex(
                f"compiled it takes {grammar.ctx.memory_size_bytes >> 20} MiB, at most {MEMORY_BYTES >> 20}"
            )
        compiled = grammar.ctx.serialize_json()
        if len(compiled) > FILE_BYTES:
            return source, compile_s
        began = time.process_time()
        xgrammar.CompiledGrammar.deserialize_json(compiled, self.libraries["xgrammar"].tokenizer_info)
        read_s = time.process_time() - began
        return (compiled.encode(), read_s) if read_s < compile_s else (source, compile_s)


_compiler: Compiler | None = None


def set_up_compiler(config: VllmConfig) -> None:
    """Make this worker's compiler of grammars; each worker calls it once."""
    global _compiler
    _compiler = Compiler(config)
    # The libraries' C++ code writes warnings with tenants' texts to the standard error.
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 2)


def compile_grammar(order: Order) -> Outcome:
    """Compile in a worker. Raises: GrammarRefused, TooComplex."""
    assert _compiler is not None, "set_up was not called"
    return _compiler.compile(order)


def _starter(
    first: StructuredOutputGrammar, again: Callable[[], StructuredOutputGrammar]
) -> Callable[[], StructuredOutputGrammar]:
    """Gives the grammar that is there already, then new ones."""
    made = [first]
    return lambda: made.pop() if made else again()


def _check_document(text: str, max_depth: int | None) -> None:
    """Check that a schema or tag is JSON and not nested too deeply. Raises: GrammarRefused."""
    try:
        depth = measure(json.loads(text)).depth
    except ValueError as error:
        raise GrammarRefused(f"it is not JSON: {error}") from error
    except RecursionError as error:
        raise GrammarRefused("it is nested too deeply") from error
    if max_depth is not None and depth > max_depth:
        raise GrammarRefused(
            f"it has {depth} levels of nested JSON, at most {max_depth} (limit 'schema_depth')"
        )
