"""The engine takes prepared grammars only, each from its own library, and keeps what it has read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.usage.usage_lib import UsageContext
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.backend_guidance import GuidanceGrammar
from vllm.v1.structured_output.backend_types import StructuredOutputOptions
from vllm.v1.structured_output.backend_xgrammar import XgrammarGrammar

from server.config.settings import Settings
from server.engine.args import engine_args
from server.engine.decoding.grammars import files, prepared_backend
from server.engine.decoding.grammars.files import Prepared
from server.engine.decoding.grammars.prepared_backend import FOLDER_KEY, PreparedBackend, take_prepared
from server.engine.decoding.grammars.watched_grammar import WatchedGrammar
from server.fairness.shares import STAMP_KEY

INTEGER = b'{"type": "integer"}'
KIND = StructuredOutputOptions.GRAMMAR


@pytest.fixture(scope="module")
def config() -> Any:
    arguments = engine_args(Settings(demo=True))
    return arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)


@pytest.fixture
def backend(config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreparedBackend:
    monkeypatch.setattr(config, "additional_config", {STAMP_KEY: {FOLDER_KEY: str(tmp_path)}})
    manager = StructuredOutputManager(config)
    take_prepared(manager)
    assert isinstance(manager.backend, PreparedBackend)
    return manager.backend


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def write(
        name: str, library: str = "xgrammar", content: bytes = INTEGER, *, compiled: bool = False
    ) -> str:
        files.write_grammar(
            tmp_path / name, tmp_path / "scratch", Prepared(library, "JSON", compiled, content)
        )
        return files.PREFIX + name

    return write


def follows(backend: PreparedBackend, grammar: Any, text: str) -> bool:
    tokens = [*backend.tokenizer.encode(text), backend.tokenizer.eos_token_id]
    return bool(grammar.accept_tokens("", tokens) and grammar.failed is None)


@pytest.mark.parametrize(("library", "kind"), [("xgrammar", XgrammarGrammar), ("guidance", GuidanceGrammar)])
def test_a_grammar_is_enforced_by_the_library_that_compiled_it(
    backend: PreparedBackend, write: Callable[..., str], library: str, kind: type[Any]
) -> None:
    name = write("owner-a", library)
    for text, expected in (("12", True), ("a", False)):
        grammar = backend.compile_grammar(KIND, name)
        assert isinstance(grammar, WatchedGrammar) and isinstance(grammar.grammar, kind)
        assert follows(backend, grammar, text) is expected


def test_a_compiled_form_is_read(backend: PreparedBackend, write: Callable[..., str]) -> None:
    source = backend.compile_grammar(KIND, write("owner-a"))
    compiled = source.grammar.ctx.serialize_json().encode()
    grammar = backend.compile_grammar(KIND, write("owner-b", content=compiled, compiled=True))
    assert follows(backend, grammar, "12")
    assert not follows(backend, backend.compile_grammar(KIND, files.PREFIX + "owner-b"), "a")


def test_what_was_read_is_kept_and_begins_anew_for_each_request(
    backend: PreparedBackend, write: Callable[..., str], tmp_path: Path
) -> None:
    name = write("owner-a")
    assert follows(backend, backend.compile_grammar(KIND, name), "12")
    (tmp_path / "owner-a").unlink()
    assert follows(backend, backend.compile_grammar(KIND, name), "34")


def test_the_end_tokens_of_a_request_end_its_answer(
    backend: PreparedBackend, write: Callable[..., str]
) -> None:
    (stop,) = backend.tokenizer.encode("!")
    tokens = [*backend.tokenizer.encode("12"), stop]
    name = write("owner-a")
    assert not follows(backend, backend.compile_grammar(KIND, name), "12!")
    for _ in range(2):  # read, and kept
        grammar = backend.compile_grammar(KIND, name, {stop})
        assert grammar.accept_tokens("", tokens) and grammar.failed is None and grammar.is_terminated()


@pytest.mark.parametrize("spec", ['{"type": "integer"}', 'root ::= "a"', ""])
def test_a_grammar_that_was_not_prepared_is_refused(backend: PreparedBackend, spec: str) -> None:
    with pytest.raises(ValueError, match="only grammars that were prepared"):
        backend.compile_grammar(StructuredOutputOptions.JSON, spec)


def test_a_file_that_is_gone_is_an_error(backend: PreparedBackend) -> None:
    with pytest.raises(OSError, match="owner-none"):
        backend.compile_grammar(KIND, files.PREFIX + "owner-none")


def test_the_masks_fit_the_vocabulary(backend: PreparedBackend) -> None:
    mask = backend.allocate_token_bitmask(3)
    assert mask.dtype == torch.int32 and mask.shape == (3, (backend.vocab_size + 31) // 32)
    backend.destroy()


def test_without_a_tokenizer_vllm_enforces_nothing(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.model_config, "skip_tokenizer_init", True)
    manager = StructuredOutputManager(config)
    take_prepared(manager)
    assert manager.backend is None


def test_the_threads_of_grammars_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(prepared_backend.os, "setpriority", lambda *arguments: asked.append(arguments))
    prepared_backend._give_way()
    assert [each[2] for each in asked] == [10]
