"""Tokens that are pieces of characters, in the log-probabilities of vLLM's own functions."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses
from vllm.logprobs import Logprob
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine import logprobs as engine_logprobs
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.outputs import LogprobsLists

import demo
from server.engine.rendering import token_bytes
from server.engine.rendering.token_bytes import TokenPieces, with_bytes, with_shown_pieces

TEXT = "aß😀 日本\ufffd!"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(demo.MODEL_DIR)


def serving(kind: Any) -> Any:
    """vLLM's handler, of which only the functions for logprobs are used."""
    made = object.__new__(kind)
    made.return_tokens_as_token_ids = False
    return made


def decoded(tokenizer: Any, ids: list[int]) -> list[dict[int, Logprob]]:
    """What vLLM makes of these tokens; each has the next 3 ids as alternatives."""
    processor = LogprobsProcessor(tokenizer, [], None, 0.0, 3, None)
    rows = np.array([[each, *((each + i) % len(tokenizer) for i in (1, 2, 3))] for each in ids])
    figures = np.tile(np.array([-0.5, -1.5, -2.5, -3.5]), (len(ids), 1))
    processor._update_sample_logprobs(LogprobsLists(rows, figures, np.ones(len(ids), int), None))
    return processor.logprobs  # type: ignore[return-value]


def arguments(tokenizer: Any, **more: Any) -> dict[str, Any]:
    ids = tokenizer.encode(TEXT)
    return {"token_ids": ids, "tokenizer": tokenizer} | more


def test_the_bytes_of_all_tokens_are_the_text(tokenizer: Any) -> None:
    given = arguments(tokenizer)
    tops = decoded(tokenizer, given["token_ids"])
    assert any(step[each].decoded_token == "" for each, step in zip(given["token_ids"], tops, strict=True)), (
        "vLLM shows pieces as nothing, else this module is not needed"
    )
    create = with_bytes(serving(OpenAIServingChat)._create_chat_logprobs, "top_logprobs")
    content = create(**given, top_logprobs=tops, num_output_top_logprobs=3).content
    assert b"".join(bytes(entry.bytes) for entry in content) == TEXT.encode()
    assert {entry.token for entry in content} >= {"a", "\\xf0", "!"}
    for entry in content:
        shown = [(top.token, tuple(top.bytes)) for top in entry.top_logprobs]
        assert len(set(shown)) == len({token for token, _ in shown}) == 3
        assert all(bytes(raw).decode("utf-8", "backslashreplace") == token for token, raw in shown)


def test_responses_have_them_too(tokenizer: Any) -> None:
    given = arguments(tokenizer)
    create = with_bytes(serving(OpenAIServingResponses)._create_response_logprobs, "logprobs")
    made = create(**given, logprobs=decoded(tokenizer, given["token_ids"]), top_logprobs=2)
    assert b"".join(bytes(entry.bytes) for entry in made) == TEXT.encode()
    assert all(len({top.token for top in entry.top_logprobs}) == 2 for entry in made)


def test_ids_instead_of_texts_keep_the_bytes_of_their_tokens(tokenizer: Any) -> None:
    given = arguments(tokenizer, return_as_token_id=True)
    create = with_bytes(serving(OpenAIServingChat)._create_chat_logprobs, "top_logprobs")
    tops = decoded(tokenizer, given["token_ids"])
    content = create(**given, top_logprobs=tops, num_output_top_logprobs=3).content
    assert [entry.token for entry in content] == [f"token_id:{each}" for each in given["token_ids"]]
    assert b"".join(bytes(entry.bytes) for entry in content) == TEXT.encode()
    assert content[0].top_logprobs[0].bytes == list(b"a")


def test_completions_show_pieces_and_count_the_texts_characters(tokenizer: Any) -> None:
    given = arguments(tokenizer)
    plain = serving(OpenAIServingCompletion)._create_completion_logprobs
    tops = decoded(tokenizer, given["token_ids"])
    made = with_shown_pieces(plain)(**given, top_logprobs=tops, num_output_top_logprobs=3)
    before = plain(**given, top_logprobs=tops, num_output_top_logprobs=3)
    assert made.text_offset == before.text_offset and made.token_logprobs == before.token_logprobs
    assert all(len(top) == 4 for top in made.top_logprobs), "no alternative hides another one"
    assert "\\xf0" in made.tokens and made.model_dump(mode="json")["tokens"] == made.tokens
    # The next chunk of a stream begins where this one's last token ends, as vLLM counts it.
    for cut in range(1, len(given["token_ids"])):
        first = {"token_ids": given["token_ids"][:cut], "top_logprobs": tops[:cut]}
        chunk = with_shown_pieces(plain)(**given | first, num_output_top_logprobs=3)
        assert chunk.text_offset[-1] + len(chunk.tokens[-1]) == made.text_offset[cut]


def test_other_tokens_are_left_alone(tokenizer: Any) -> None:
    pieces = TokenPieces(tokenizer)
    for token_id in range(len(tokenizer)):
        raw = pieces.bytes_of(token_id)
        text = tokenizer.decode([token_id])
        assert (raw is None) == ("\ufffd" not in text), (token_id, text, raw)
    assert pieces.bytes_of(10**6) is None and TokenPieces(None).bytes_of(1) is None


def test_each_token_is_decoded_once_and_as_vllm_decodes_it(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Any
) -> None:
    ids = [*range(len(tokenizer)), 5, 5]
    assert token_bytes.token_texts(tokenizer, ids) == convert_ids_list_to_tokens(tokenizer, ids)
    monkeypatch.setattr(token_bytes, "convert_ids_list_to_tokens", None)
    assert token_bytes.token_texts(tokenizer, ids[-2:]) == convert_ids_list_to_tokens(tokenizer, [5, 5])


def test_vllms_output_processor_uses_it() -> None:
    token_bytes.install()
    assert engine_logprobs.convert_ids_list_to_tokens is token_bytes.token_texts
    assert "convert_ids_list_to_tokens(" in inspect.getsource(LogprobsProcessor._update_sample_logprobs)
    assert "tokenizer.decode([tid])" in inspect.getsource(convert_ids_list_to_tokens)
