"""Encoding piece by piece gives the ids of the whole text."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import demo
from adapters.control_tokens.segments import SegmentEncoder

TOKENIZER = AutoTokenizer.from_pretrained(demo.MODEL_DIR, local_files_only=True)
_PIECES = st.one_of(
    st.sampled_from([*TOKENIZER.get_added_vocab(), "<|im_", "\n", "\n\n", "  ", "é", "1234", "don't", "。"]),
    st.text(max_size=12),
)


@settings(max_examples=examples(300))
@given(st.lists(_PIECES, max_size=10).map("".join))
def test_the_ids_are_those_of_the_tokenizer(text: str) -> None:
    encoder = SegmentEncoder.of(TOKENIZER)
    assert encoder is not None
    expected = tuple(TOKENIZER.encode(text, add_special_tokens=False))
    assert encoder.encode(text) == expected
    assert encoder.encode(text) == expected  # now from memory


class _Backend:
    def __init__(self, **changes: Any) -> None:
        self.form = {
            "added_tokens": [], "pre_tokenizer": None, "normalizer": None, "truncation": None, "padding": None
        } | changes  # fmt: skip

    def to_str(self) -> str:
        import json

        return json.dumps(self.form)


class _Tokenizer:
    split_special_tokens = False

    def __init__(self, **changes: Any) -> None:
        self.backend_tokenizer = _Backend(**changes)


_PLAIN = {
    "id": 1,
    "content": "<e>",
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "single_word": False,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"added_tokens": [_PLAIN | {"lstrip": True}]},
        {"added_tokens": [_PLAIN | {"normalized": True}]},
        {"added_tokens": []},
        {"pre_tokenizer": {"type": "Metaspace"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Metaspace"}]}},
        {"normalizer": {"type": "Prepend"}},
        {"truncation": {"max_length": 8}},
    ],
)
def test_a_tokenizer_that_looks_further_is_left_alone(changes: dict[str, Any]) -> None:
    assert SegmentEncoder.of(_Tokenizer(**{"added_tokens": [_PLAIN]})) is not None
    assert SegmentEncoder.of(_Tokenizer(**({"added_tokens": [_PLAIN]} | changes))) is None


def test_it_can_be_sent_to_another_process() -> None:
    encoder = SegmentEncoder.of(TOKENIZER)
    assert encoder is not None
    assert pickle.loads(pickle.dumps(encoder)).encode("Hi<|im_end|>") == encoder.encode("Hi<|im_end|>")
