"""Scores: which answers count as right."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import demo
from adapters.training.data.chat_template import IGNORED, Conversation, Renderer, Sample, Turn
from adapters.training.evaluation.generate import answer_greedily
from adapters.training.evaluation.loss import held_out_loss
from adapters.training.evaluation.metrics import held_out_turns, parse_calls, repeats, score


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(AutoTokenizer.from_pretrained(demo.MODEL_DIR), "<|im_end|>")


def turn(renderer: Renderer, answer: dict[str, Any]) -> Turn:
    chat = Conversation(({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", **answer}))
    return next(renderer.turns(chat))


CALL = {"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1, "b": "x"}}}]}


def call_text(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call><|im_end|>"


@pytest.mark.parametrize(
    ("expected", "answer", "exact", "stops"),
    [
        ({"content": "Hello."}, "Hello.<|im_end|>", 1.0, 1.0),
        ({"content": "Hello."}, "Hello.", 0.0, 0.0),
        ({"content": "Hello."}, "Hello!<|im_end|>", 0.0, 1.0),
        (CALL, call_text('{"name": "f", "arguments": {"a": 1, "b": "x"}}'), 1.0, 1.0),
        (CALL, call_text('{"name":"f","arguments":{"b":"x","a":1}}'), 1.0, 1.0),
        (CALL, call_text('{"name": "f", "arguments": {"a": 2, "b": "x"}}'), 0.0, 1.0),
        (CALL, call_text('{"name": "g", "arguments": {"a": 1, "b": "x"}}'), 0.0, 1.0),
        (CALL, call_text('{"name": "f", "arguments": {"a": 1'), 0.0, 1.0),
        (CALL, '{"name": "f", "arguments": {"a": 1, "b": "x"}}<|im_end|>', 0.0, 1.0),
    ],
)
def test_what_is_right(renderer: Renderer, expected: dict, answer: str, exact: float, stops: float) -> None:
    found = score(renderer, [turn(renderer, expected)], [renderer.encode(answer)])
    assert (found.exact, found.stops) == (exact, stops)
    assert found.tool_calls == (exact if expected is CALL else None)


def test_calls_are_counted_apart(renderer: Renderer) -> None:
    turns = [turn(renderer, {"content": "Hello."}), turn(renderer, CALL)]
    found = score(renderer, turns, [turns[0].target, turns[0].target])
    assert asdict(found) == {
        "turns": 2, "exact": 0.5, "call_turns": 1, "tool_calls": 0.0, "json_turns": 1, "json_valid": 0.0,
        "stops": 1.0, "repeats": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("expected", "answer", "valid"),
    [
        (CALL, call_text('{"name": "g", "arguments": {}}'), 1.0),  # valid, though the wrong call
        (CALL, call_text('{"name": "g"'), 0.0),
        (CALL, "No call.<|im_end|>", 0.0),
        ({"content": '{"a": 1}'}, '{"a": 2}<|im_end|>', 1.0),
        ({"content": '{"a": 1}'}, '{"a": 2<|im_end|>', 0.0),
        ({"content": "[1]"}, "1<|im_end|>", 0.0),
        ({"content": "7"}, "7<|im_end|>", None),  # nobody asks for a bare number as JSON
    ],
)
def test_json_is_validated_where_it_is_expected(
    renderer: Renderer, expected: dict, answer: str, valid: float | None
) -> None:
    found = score(renderer, [turn(renderer, expected)], [renderer.encode(answer)])
    assert (found.json_valid, found.json_turns) == (valid, int(valid is not None))


@pytest.mark.parametrize(
    ("answer", "looping"),
    [
        ([1] * 16, True),
        ([1] * 15, False),
        ([5, 6, *[1, 2, 3] * 6], True),
        ([5, 6, *[1, 2, 3] * 6, 99], True),  # followed by an end token
        ([*[1, 2, 3] * 6, 7, 8], False),  # the repetition ended
        (list(range(40)), False),
        ([*range(30), *range(30)], False),  # only two copies
        ([*range(30)] * 3, True),
        ([], False),
    ],
)
def test_what_a_repeated_pattern_is(answer: list[int], looping: bool) -> None:
    assert repeats(answer) is looping


@pytest.mark.parametrize("beginning", [(), tuple(range(40))], ids=["padded", "a shared beginning"])
def test_held_out_loss_is_transformers_own(
    tiny_base: Path, samples: list[Sample], beginning: tuple[int, ...]
) -> None:
    samples = [Sample(beginning + s.ids, (IGNORED,) * len(beginning) + s.labels) for s in samples]
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()
    summed, tokens = 0.0, 0
    for sample in samples:
        labels = torch.tensor([sample.labels])
        with torch.inference_mode():
            mean = model(input_ids=torch.tensor([sample.ids]), labels=labels).loss
        counted = int((labels[:, 1:] != IGNORED).sum())
        summed, tokens = summed + float(mean) * counted, tokens + counted
    model.train()
    assert held_out_loss(model, samples, pad_id=0) == pytest.approx(summed / tokens, rel=1e-6)
    assert model.training


def test_calls_are_parsed_as_the_server_parses_them() -> None:
    assert parse_calls("no call") == []
    assert parse_calls('<tool_call>{"name": "f", "arguments": {}}</tool_call>') == [
        {"name": "f", "arguments": {}}
    ]
    assert parse_calls("<tool_call>{</tool_call>") is None
    assert parse_calls('<tool_call>{"name": "f"}</tool_call>') is None


def test_turns_are_limited(renderer: Renderer) -> None:
    chat = Conversation(
        tuple({"role": r, "content": "x"} for r in ("user", "assistant", "user", "assistant"))
    )
    assert len(held_out_turns(renderer, [chat, chat], 3)) == 3
    assert held_out_turns(renderer, [], 3) == []


@pytest.mark.parametrize("beginning", [(), tuple(range(20, 60))], ids=["padded", "a shared beginning"])
def test_batched_answers_equal_single_ones(beginning: tuple[int, ...]) -> None:
    model = AutoModelForCausalLM.from_pretrained(demo.MODEL_DIR, dtype=torch.float32)
    prompts = [beginning + end for end in [(5, 6, 7), (8,), (9, 10, 11, 12, 13), (14, 15)]]

    def ask(some: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return answer_greedily(model, some, end_ids=[1], pad_id=0, max_new_tokens=6)

    read: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _, args, __: read.append(args[0].numel())
    )
    together = ask(prompts)
    hook.remove()
    assert sum(read) <= len(beginning) + 4 * (5 + 5), (
        "the beginning is read once, the longest end and five tokens"
    )
    assert together == [ask([p])[0] for p in prompts]
    model.train()
    ask(prompts[:1])
    assert model.training
