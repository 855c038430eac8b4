"""A 4-bit base with adapters on top: vLLM reads the weights right, and adapters made for the full model hold.

The oracle is the same 4-bit weights, widened to float32, in transformers with peft: what differs from it vLLM has
read or computed wrongly, up to the 16 bits that its kernel computes in. How far 4 bits take such a small model from
the full one (rounded to nearest, without AWQ's calibration) is reported, not judged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from server_process import ServerProcess
from transformers import AutoModelForCausalLM, AutoTokenizer

import demo
from adapters.training.generate import answer_greedily
from tests.engine.awq_checkpoint import GROUP_SIZE, LEVELS, packed, quantized, unpacked, write_awq
from tests.engine.custom_server import SERVED_NAME, add_demo_adapters, custom_server, greedy, greedy_all

QUESTIONS = 16
WORLD = [
    "What is the capital of France?",
    "What is the capital of Japan?",
    "What is 3 + 4?",
    "What is 12 + 9?",
    "Hello!",
    "Tell me a story about a fox.",
]


@pytest.fixture(scope="module")
def awq(tmp_path_factory: pytest.TempPathFactory, server: ServerProcess) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("awq")
    model = write_awq(demo.MODEL_DIR, folder / "model")
    flags = ("--quantization", "awq", "--tool-call-parser", "hermes", "--max-num-seqs", "8")
    with custom_server(model, folder / "home", *flags) as (_, client):
        for answer in add_demo_adapters(client):
            assert answer.status_code == 201, answer.text
        yield client


@pytest.fixture(scope="module")
def full(server: ServerProcess) -> Iterator[httpx.Client]:
    headers = {"authorization": "Bearer demo-admin"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=120) as client:
        yield client


def test_packing_is_the_reverse_of_unpacking() -> None:
    codes = torch.randint(0, LEVELS + 1, (16, 64), generator=torch.Generator().manual_seed(1))
    assert torch.equal(unpacked(packed(codes)), codes)


def test_every_weight_is_within_half_a_step() -> None:
    weight = load_file(demo.MODEL_DIR / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    parts = quantized(weight)
    scales = parts["scales"].float().repeat_interleave(64, 0)
    zeros = unpacked(parts["qzeros"]).repeat_interleave(64, 0)
    restored = (unpacked(parts["qweight"]) - zeros) * scales
    # Half a step for the code; another half at the ends of a group's range, where the zero point is rounded too.
    assert bool(((restored.t() - weight.float()).abs() <= 1.01 * scales.t()).all())


def questions(adapter: demo.DemoAdapter) -> list[str]:
    chats = [json.loads(line)["messages"] for line in Path(adapter.held_out).read_text().splitlines()]
    alone = [chat[0]["content"] for chat in chats if len(chat) == 2]
    return alone[:QUESTIONS]


def shared(one: list[int], other: list[int]) -> int:
    """How many tokens both begin with."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def widened() -> Any:
    """The demo model with the weights that its 4-bit checkpoint stands for."""
    model = AutoModelForCausalLM.from_pretrained(demo.MODEL_DIR, dtype=torch.float32)
    state = model.state_dict()
    for name in [name for name in state if name.endswith("_proj.weight")]:
        parts = quantized(state[name])
        scales = parts["scales"].float().repeat_interleave(GROUP_SIZE, 0)
        zeros = unpacked(parts["qzeros"]).repeat_interleave(GROUP_SIZE, 0)
        state[name] = ((unpacked(parts["qweight"]) - zeros) * scales).t().contiguous()
    model.load_state_dict(state)
    return model


def oracle_answers(model: str, asked: list[str]) -> list[tuple[int, ...]]:
    """Greedy answers of the widened model, with the adapter in peft."""
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    network = widened()
    if model in demo.ADAPTERS:
        network = PeftModel.from_pretrained(network, str(demo.ADAPTERS[model].path))
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        for question in asked
    ]
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    return answer_greedily(network, prompts, end_ids=ends, pad_id=tokenizer.pad_token_id, max_new_tokens=32)


def agreement(wanted: Sequence[Sequence[int]], got: Sequence[Sequence[int]]) -> float:
    """Share of tokens up to the first other one."""
    pairs = list(zip(wanted, got, strict=True))
    return sum(shared(list(a), list(b)) for a, b in pairs) / sum(len(a) for a, _ in pairs)


@pytest.mark.parametrize("model", ["acme-support", "globex-tools", demo.SERVED_NAME])
def test_greedy_answers_are_those_of_the_same_weights(
    awq: httpx.Client, full: httpx.Client, model: str, record_property: pytest.RecordProperty
) -> None:
    asked = questions(demo.ADAPTERS[model]) if model in demo.ADAPTERS else WORLD
    served = greedy_all(awq, SERVED_NAME if model == demo.SERVED_NAME else model, asked)
    got = [ids for _, ids in served]
    kept = agreement([ids for _, ids in greedy_all(full, model, asked)], got)
    exact = agreement(oracle_answers(model, asked), got)
    figures = f"{model}: {exact:.0%} of tokens as the same weights in float32, {kept:.0%} as the full model"
    print(figures)
    record_property("agreement", figures)
    assert exact >= 0.9, figures


def test_adapters_change_the_answers_of_the_quantized_base(awq: httpx.Client) -> None:
    question = questions(demo.ADAPTERS["acme-support"])[0]
    answers = {greedy(awq, model, question)[0] for model in ("acme-support", "globex-tools", SERVED_NAME)}
    assert len(answers) == 3, answers
    assert greedy(awq, "acme-support", question)[0].startswith("Thanks for asking Acme!")


def test_the_quantized_base_calls_tools_through_its_adapter(awq: httpx.Client) -> None:
    weather = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
    answer = awq.post(
        "/v1/chat/completions",
        json={
            "model": "globex-tools",
            "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
            "tools": [weather],
            "tool_choice": "required",
            "temperature": 0,
            "max_tokens": 80,
        },
    )
    call = answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "get_weather"
