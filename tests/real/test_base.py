"""The real base as it is served: the planner's blocks, its chat template, its presets and the end of its turns."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from custom_server import SERVED_NAME
from server_process import LORAGATE

from tests.real.conftest import FLAGS
from tests.real.prompts import SYSTEM, TOOLS
from tests.real.real_answers import RealModel

CONTROL = re.compile(r"<\|[a-z_]+\|>|</?tool_call>")
CALL = {
    "id": "call_0",
    "type": "function",
    "function": {"name": "get_weather", "arguments": json.dumps({"city": "Zürich"})},
}
#: Several turns, a call with its result, letters outside of ASCII, and text that looks like control tokens.
CHAT: list[dict[str, Any]] = [
    SYSTEM,
    {"role": "user", "content": "Weather in Zürich?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_0", "content": json.dumps({"sky": "rain", "celsius": 7})},
    {"role": "assistant", "content": "It rains, at 7 °C."},
    {"role": "user", "content": "東京は？ Answer with one word."},
]
pytestmark = pytest.mark.timeout(600)


def say(client: httpx.Client, messages: list[Any], **options: Any) -> dict[str, Any]:
    body = {"model": SERVED_NAME, "messages": messages, **options}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_planners_blocks_are_the_engines(client: httpx.Client, folder: Path, tmp_path: Path) -> None:
    command = [LORAGATE, "plan", "--model", str(folder), *FLAGS, "--data-dir", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240, cwd="/")
    planned = json.loads(done.stdout)["plan"]
    info = re.search(r"vllm:cache_config_info\{[^}]*\}", client.get("/metrics").text)
    assert info is not None
    reported = dict(re.findall(r'(\w+)="([^"]*)"', info[0]))
    assert planned["kv_blocks"] == int(reported["num_gpu_blocks"])
    assert planned["block_size_tokens"] == int(reported["block_size"])


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
def test_a_long_chat_is_rendered_as_transformers_renders_it(
    client: httpx.Client, real: RealModel, tools: list[Any] | None
) -> None:
    found = say(client, CHAT, max_tokens=1, return_token_ids=True, **({"tools": tools} if tools else {}))
    decoded = json.loads(json.dumps(CHAT))
    call = decoded[2]["tool_calls"][0]["function"]  # transformers takes arguments as objects
    call["arguments"] = json.loads(call["arguments"])
    assert found["prompt_token_ids"] == real.prompt(decoded, tools)


@pytest.mark.parametrize("preset", ["factual", "chat", "creative", "code", "function_calling"])
def test_with_every_preset_the_model_ends_its_turn_and_shows_no_control_token(
    client: httpx.Client, preset: str
) -> None:
    question = "What is the capital of France? Answer with one word."
    for seed in range(3):
        found = say(client, [{"role": "user", "content": question}], preset=preset, seed=seed, max_tokens=64)
        (choice,) = found["choices"]
        assert choice["finish_reason"] == "stop"
        assert not CONTROL.search(choice["message"]["content"])
        assert "Paris" in choice["message"]["content"]


def test_a_function_is_called_and_its_result_is_used(client: httpx.Client) -> None:
    """The small base calls seldom by itself; where it must, its call fits the schema."""
    question = [{"role": "user", "content": "What is the weather in Lima?"}]
    forced = {"type": "function", "function": {"name": "get_weather"}}
    found = say(client, question, tools=TOOLS, tool_choice=forced, temperature=0, max_tokens=64)
    (call,) = found["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert "Lima" in json.loads(call["function"]["arguments"])["city"]
    turns = [*question, {"role": "assistant", "content": "", "tool_calls": [call]}]
    turns.append({"role": "tool", "tool_call_id": call["id"], "content": json.dumps({"sky": "snow"})})
    said = say(client, turns, tools=TOOLS, temperature=0, max_tokens=64)["choices"][0]["message"]["content"]
    assert "snow" in said.lower()
