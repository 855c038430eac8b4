"""The grammars of the engine: those that a worker process has compiled and tried before the request came.

vLLM compiles every grammar in the engine's process, where nothing can end it, and with the library that the first
request happened to need. Here the engine takes only grammars that `grammars.preparation` has prepared, each with its
own library: it reads the compiled form, or compiles again what a worker has compiled quickly. That work has few
threads, which give way to the model.

Leans on (vLLM 0.32): vllm.v1.structured_output.StructuredOutputManager (`backend`, `executor`, `tokenizer`,
`vllm_config`), backend_types.StructuredOutputBackend, XgrammarGrammar and OutlinesGrammar.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xgrammar
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.backend_types import (
    StructuredOutputBackend,
    StructuredOutputGrammar,
    StructuredOutputOptions,
)
from vllm.v1.structured_output.backend_xgrammar import XgrammarGrammar

from server.engine.decoding.grammars import files
from server.engine.decoding.grammars.cache import OwnedCache
from server.engine.decoding.grammars.libraries import Libraries
from server.engine.decoding.grammars.watched_grammar import WatchedGrammar
from server.fairness.shares import STAMP_KEY

#: Bytes of compiled grammars that the engine keeps; those in use may exceed them.
CACHE_BYTES = 256 << 20
#: The folder of prepared grammars in `additional_config["loragate"]`.
FOLDER_KEY = "grammars"
_NICENESS = 10


def take_prepared(manager: StructuredOutputManager) -> None:
    """Install `PreparedBackend`; without a tokenizer vLLM enforces no grammars at all."""
    config = manager.vllm_config
    if config.model_config.skip_tokenizer_init:
        return
    options = config.additional_config
    ours = options.get(STAMP_KEY, {}) if isinstance(options, dict) else {}
    manager.backend = PreparedBackend(
        config,
        tokenizer=manager.tokenizer,
        vocab_size=config.model_config.get_vocab_size(),
        folder=Path(ours.get(FOLDER_KEY, "")),
    )
    manager.executor.shutdown(wait=False)
    manager.executor = ThreadPoolExecutor(2, "grammars", initializer=_give_way)


@dataclass
class PreparedBackend(StructuredOutputBackend):
    """Loads prepared grammars. Thread-safe: several threads call it."""

    folder: Path

    def __post_init__(self) -> None:
        self._libraries = Libraries(self.vllm_config, self.tokenizer)
        self._cache: OwnedCache[Any] = OwnedCache(CACHE_BYTES)
        self._lock = threading.Lock()

    def compile_grammar(
        self,
        request_type: StructuredOutputOptions,
        grammar_spec: str,
        stop_token_ids: set[int] | None = None,
    ) -> WatchedGrammar:
        """Load the grammar that `grammar_spec` names.

        Raises:
            ValueError: it names none.
            OSError: its file is gone.
        """
        if not grammar_spec.startswith(files.PREFIX):
            raise ValueError("The engine takes only grammars that were prepared.")
        name = grammar_spec.removeprefix(files.PREFIX)
        owner = name.partition("-")[0]
        with self._lock:
            compiled = self._cache.get(owner, name)
        if compiled is not None:
            return WatchedGrammar(self._xgrammar_of(compiled, stop_token_ids))
        grammar = self._loaded(files.read(self.folder / name), stop_token_ids)
        if isinstance(grammar, XgrammarGrammar):  # the others are quick to make, or cannot be shared
            with self._lock:
                self._cache.put(owner, name, grammar.ctx, grammar.ctx.memory_size_bytes)
        return WatchedGrammar(grammar)

    def allocate_token_bitmask(self, max_num_seqs: int) -> torch.Tensor:
        """One bit per vocabulary entry and sequence, [max_num_seqs, V / 32] int32, alike in all libraries."""
        mask: torch.Tensor = self._library("xgrammar").allocate_token_bitmask(max_num_seqs)
        return mask

    def destroy(self) -> None:
        """See `StructuredOutputBackend`."""
        self._libraries.destroy()

    def _library(self, name: str) -> Any:
        with self._lock:
            return self._libraries[name]

    def _loaded(self, prepared: files.Prepared, stop_token_ids: set[int] | None) -> StructuredOutputGrammar:
        library = self._library(prepared.library)
        text = prepared.content.decode()
        if prepared.is_compiled:
            compiled = xgrammar.CompiledGrammar.deserialize_json(text, library.tokenizer_info)
            return self._xgrammar_of(compiled, stop_token_ids)
        grammar: StructuredOutputGrammar = library.compile_grammar(
            StructuredOutputOptions[prepared.kind], text, stop_token_ids
        )
        return grammar

    def _xgrammar_of(self, compiled: Any, stop_token_ids: set[int] | None) -> XgrammarGrammar:
        """A grammar at its beginning, as `XgrammarBackend.compile_grammar` makes it."""
        library = self._library("xgrammar")
        matcher = xgrammar.GrammarMatcher(
            compiled,
            override_stop_tokens=list(stop_token_ids) if stop_token_ids else None,
            max_rollback_tokens=library.num_speculative_tokens,
        )
        return XgrammarGrammar(matcher=matcher, vocab_size=library.vocab_size, ctx=compiled)


def _give_way() -> None:
    """Lower the priority of this thread: the model runs on the same cores."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
