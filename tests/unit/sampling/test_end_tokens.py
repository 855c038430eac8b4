"""Which tokens end an answer, from files as Qwen's checkpoints have them."""

from __future__ import annotations

import pytest

from sampling.end_tokens import added_tokens, end_tokens
from sampling.errors import NoEndToken

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ADDED = {
    "151643": {"content": "<|endoftext|>", "special": True},
    "151644": {"content": "<|im_start|>", "special": True},
    "151645": {"content": "<|im_end|>", "special": True},
    "151657": {"content": "<tool_call>", "special": False},
}
INSTRUCT = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "added_tokens_decoder": ADDED}
BASE = {"eos_token": "<|endoftext|>", "added_tokens_decoder": ADDED}


def test_instruct_has_both_and_the_tokenizers_own_first():
    assert end_tokens(INSTRUCT, {"eos_token_id": [151645, 151643]}, CHATML) == (151645, 151643)
    assert end_tokens(INSTRUCT, {"eos_token_id": [151643, 151645]}, CHATML) == (151645, 151643)
    assert end_tokens(INSTRUCT, {}, CHATML) == (151645, 151643)


def test_base_without_a_template():
    assert end_tokens(BASE, {"eos_token_id": 151643}, None) == (151643,)
    assert end_tokens(BASE, {"eos_token_id": 151643}, "{{ messages[0].content }}") == (151643,)


def test_base_with_a_template_ends_at_the_turn_and_at_the_next_ones_start():
    assert end_tokens(BASE, {"eos_token_id": 151643}, CHATML) == (151643, 151645, 151644)


def test_generation_config_that_knows_the_turn_end_needs_no_guard():
    assert end_tokens(BASE, {"eos_token_id": [151643, 151645]}, CHATML) == (151643, 151645)


def test_ids_from_tokenizer_json():
    tokenizer = {"added_tokens": [{"id": 7, "content": "<|im_end|>"}, {"id": 5, "content": "<|endoftext|>"}]}
    config = {"eos_token": {"content": "<|im_end|>", "lstrip": False}}
    assert end_tokens(config, {}, CHATML, tokenizer) == (7, 5)
    assert (
        added_tokens({"added_tokens_decoder": {"9": {"content": "<|im_end|>"}}}, tokenizer)["<|im_end|>"] == 9
    )


def test_a_token_without_a_known_id_stays_text():
    assert end_tokens({"eos_token": "<|endoftext|>"}, {}, CHATML) == (
        "<|endoftext|>",
        "<|im_end|>",
        "<|im_start|>",
    )


def test_another_familys_model_keeps_its_own_end():
    assert end_tokens({"eos_token": "</s>"}, {"eos_token_id": 2}, "[INST]{{ messages }}[/INST]") == (
        "</s>",
        2,
    )


def test_nothing_that_ends_is_an_error():
    with pytest.raises(NoEndToken, match="Add eos_token or eos_token_id"):
        end_tokens({"eos_token": None}, {}, None)
