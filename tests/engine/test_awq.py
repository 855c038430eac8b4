"""A 4-bit base with adapters on top: vLLM reads the weights right, and adapters made for the full model hold.

The demo model is rounded to 4 bits without AWQ's calibration, and it is a very small model, so its answers need
not be those of the full one. What must hold: they are mostly the same, and each adapter stays itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file
from server_process import ServerProcess

import demo
from tests.engine.awq_checkpoint import LEVELS, packed, quantized, unpacked, write_awq
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


@pytest.mark.parametrize(
    ("model", "least"), [("acme-support", 0.3), ("globex-tools", 0.3), (demo.SERVED_NAME, 0.3)]
)
def test_greedy_answers_agree_with_the_full_model(
    awq: httpx.Client,
    full: httpx.Client,
    model: str,
    least: float,
    record_property: pytest.RecordProperty,
) -> None:
    asked = questions(demo.ADAPTERS[model]) if model in demo.ADAPTERS else WORLD
    same_tokens = tokens = same_answers = 0
    quantized_model = SERVED_NAME if model == demo.SERVED_NAME else model
    for (_, wanted), (_, got) in zip(
        greedy_all(full, model, asked), greedy_all(awq, quantized_model, asked), strict=True
    ):
        same_answers += wanted == got
        same_tokens += shared(wanted, got)
        tokens += len(wanted)
    agreement = same_tokens / tokens
    figures = f"{model}: {same_answers} of {len(asked)} answers, {agreement:.0%} of tokens up to the first other one"
    print(f"AWQ (round to nearest) against float32: {figures}")
    record_property("agreement", figures)
    assert agreement >= least, figures


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
