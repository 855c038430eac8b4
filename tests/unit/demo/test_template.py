"""The chat template: ChatML, and the tool convention that the hermes parser reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import AutoTokenizer

import demo
from demo.tokenizer import CONTROL_TOKENS, TEMPLATE


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(demo.MODEL_DIR)


def render(tokenizer: Any, messages: list[dict], **kwargs: Any) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, **kwargs)


USER = {"role": "user", "content": "Hello!"}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "Does f.", "parameters": {"type": "object"}},
}


def test_the_model_folder_holds_the_template(tokenizer: Any) -> None:
    assert (demo.MODEL_DIR / "chat_template.jinja").read_text() == TEMPLATE.read_text()
    assert tokenizer.chat_template.strip() == TEMPLATE.read_text().strip()


def test_no_system_turn_unless_asked_for(tokenizer: Any) -> None:
    assert render(tokenizer, [USER], add_generation_prompt=True) == (
        "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(tokenizer, [{"role": "system", "content": "Be brief."}, USER]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n"
    )


@pytest.mark.parametrize("system", ["", "Be brief."])
def test_tools_stand_in_the_system_turn(tokenizer: Any, system: str) -> None:
    messages = [{"role": "system", "content": system}, USER] if system else [USER]
    text = render(tokenizer, messages, tools=[TOOL])
    assert text.startswith(
        f"<|im_start|>system\n{system}\n\n# Tools" if system else "<|im_start|>system\n# Tools"
    )
    assert f"<tools>\n{json.dumps(TOOL)}\n</tools>" in text
    assert text.count("<|im_start|>") == 2


def test_keys_that_a_server_adds_to_a_tool_change_nothing(tokenizer: Any) -> None:
    padded = {"type": "function", "strict": None, "function": {**TOOL["function"], "strict": None}}
    assert render(tokenizer, [USER], tools=[padded]) == render(tokenizer, [USER], tools=[TOOL])


@pytest.mark.parametrize("arguments", [{"a": "x", "b": 2}, '{"a": "x", "b": 2}'])
def test_arguments_may_be_an_object_or_json(tokenizer: Any, arguments: Any) -> None:
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "f", "arguments": arguments}}],
    }
    text = render(tokenizer, [USER, call])
    assert text.endswith(
        "<|im_start|>assistant\n"
        '<tool_call>\n{"name": "f", "arguments": {"a": "x", "b": 2}}\n</tool_call><|im_end|>\n'
    )


def test_words_and_several_calls_and_their_results(tokenizer: Any) -> None:
    calls = [{"function": {"name": n, "arguments": {}}} for n in ("f", "g")]
    text = render(
        tokenizer,
        [
            USER,
            {"role": "assistant", "content": "Wait.", "tool_calls": calls},
            {"role": "tool", "content": "1"},
            {"role": "tool", "content": "2"},
            {"role": "assistant", "content": "Done."},
        ],
    )
    assert text == (
        "<|im_start|>user\nHello!<|im_end|>\n"
        "<|im_start|>assistant\nWait.\n"
        '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nDone.<|im_end|>\n"
    )


def test_control_tokens_are_one_token_and_only_tags_survive_decoding(tokenizer: Any) -> None:
    for token in CONTROL_TOKENS:
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1
    ids = tokenizer.encode("<tool_call>x</tool_call><|im_end|>", add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<tool_call>x</tool_call>"


@pytest.mark.parametrize("text", ["What's 12+30?", "naïve café — 日本語 🙂", "  two  spaces\n\n\ttab", ""])
def test_any_text_comes_back(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_digits_are_single_tokens(tokenizer: Any) -> None:
    assert len(tokenizer.encode("4821", add_special_tokens=False)) == 4
