"""What is served is what peft computes, token for token: greedy answers of the real base and of an adapter on it."""

from __future__ import annotations

import copy
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from custom_server import SERVED_NAME
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk
from peft import get_peft_model

from benchmarks.real.greedy_answers import unlike_greedy
from tests.engine.peft_variants import lora, train
from tests.real.prompts import QUESTIONS, SYSTEM, TOOLS
from tests.real.real_answers import RealModel

TOKENS = 16
ADAPTER = "/admin/v1/adapters/real/greedy/versions"
#: Logits of the same model that two implementations compute in float32 differ by less.
GAP = 1e-3
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def models(client: httpx.Client, real: RealModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Served name → the reference: the base, and an adapter on another copy of it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("adapter")
    adapted = train(get_peft_model(copy.deepcopy(real.base), lora(r=16, lora_alpha=32)), 0.004)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    added = client.post(ADAPTER, json={"source": str(folder)})
    assert added.status_code == 201, added.text
    return {SERVED_NAME: real.base, "real-greedy": adapted}


def body(question: str, *, tools: bool, **options: Any) -> dict[str, Any]:
    """A greedy request; without the penalty that the base's generation_config.json asks for."""
    messages = (
        [SYSTEM, {"role": "user", "content": question}] if tools else [{"role": "user", "content": question}]
    )
    asked = {"messages": messages, "max_tokens": TOKENS, "temperature": 0, "return_token_ids": True}
    return asked | {"repetition_penalty": 1.0} | ({"tools": TOOLS} if tools else {}) | options


def whole(client: httpx.Client, asked: dict[str, Any]) -> tuple[Any, list[int], list[int]]:
    """What is said, the answer's ids and the prompt's."""
    answer = client.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    (choice,) = found["choices"]
    return said(choice), choice["token_ids"], found["prompt_token_ids"]


def streamed(client: httpx.Client, asked: dict[str, Any]) -> tuple[Any, list[int]]:
    """The same of a stream, folded as the official client folds it."""
    state: Any = ChatCompletionStreamState()
    ids: list[int] = []
    with client.stream("POST", "/v1/chat/completions", json=asked | {"stream": True}) as lines:
        for line in lines.iter_lines():
            if line.startswith("data: {"):
                chunk = ChatCompletionChunk.model_validate_json(line.removeprefix("data: "))
                state.handle_chunk(chunk)
                for choice in chunk.choices:
                    ids += (choice.model_extra or {}).get("token_ids") or []
    answer = json.loads(state.current_completion_snapshot.model_dump_json())
    return said(answer["choices"][0]), ids


def said(choice: dict[str, Any]) -> Any:
    message = choice["message"]
    calls = [(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or []]
    return message.get("content") or "", calls, choice["finish_reason"]


def answers(client: httpx.Client, requests: list[dict[str, Any]]) -> list[Any]:
    """(whole, streamed) of each request, many in one batch of the engine."""
    with ThreadPoolExecutor(16) as pool:
        wholes = list(pool.map(lambda asked: whole(client, asked), requests))
        streams = list(pool.map(lambda asked: streamed(client, asked), requests))
    return list(zip(wholes, streams, strict=True))


@pytest.mark.parametrize("name", [SERVED_NAME, "real-greedy"])
@pytest.mark.parametrize("tools", [False, True], ids=["plain", "tools"])
def test_greedy_answers_are_those_of_peft(
    client: httpx.Client, real: RealModel, models: dict[str, Any], name: str, tools: bool
) -> None:
    begun = time.monotonic()
    asked_of = QUESTIONS if name != SERVED_NAME else QUESTIONS[::3]
    requests = [body(question, tools=tools, model=name) for question in asked_of]
    found = answers(client, requests)
    served_s = time.monotonic() - begun
    for asked, ((_, _, prompt), _) in zip(requests, found, strict=True):
        assert prompt == real.prompt(asked["messages"], asked.get("tools"))
    others = [(w, s) for w, s in found if w[1] != s[1]]  # by the noise only
    assert all(w[0] == s[0] for w, s in found if (w, s) not in others)
    pairs = [(prompt, ids) for (_, ids, prompt), _ in found]
    pairs += [(prompt, ids) for (_, _, prompt), (_, ids) in others]
    places = unlike_greedy(models[name], pairs, gap=GAP)
    result = {
        "model": name,
        "tools": tools,
        "prompts": len(found),
        "tokens": sum(len(ids) for _, ids in pairs),
        "different": sum(place is not None for place in places),
        "streams_that_the_noise_changed": len(others),
        "with_calls": sum(bool(w[0][1]) for w, _ in found),
    }
    times = {"served_s": round(served_s, 1), "seconds": round(time.monotonic() - begun, 1)}
    print(json.dumps(result | times))
    assert result["different"] == 0, places


def test_the_models_own_penalty_applies_to_greedy_answers(
    client: httpx.Client, folder: Path, models: dict[str, Any]
) -> None:
    """As in stock vLLM; the debug header tells the value and where it comes from."""
    config = json.loads((folder / "generation_config.json").read_text())
    penalty = config.get("repetition_penalty", 1.0)
    if penalty == 1.0:
        pytest.skip("The model's generation_config.json has no repetition penalty.")
    plain = models[SERVED_NAME]
    requests = [
        body(question, tools=False, model=SERVED_NAME, repetition_penalty=None) for question in QUESTIONS[::3]
    ]
    pairs = [(prompt, ids) for (_, ids, prompt), _ in answers(client, requests)]
    assert not any(place is not None for place in unlike_greedy(plain, pairs, gap=GAP, penalty=penalty))
    changed = sum(place is not None for place in unlike_greedy(plain, pairs, gap=GAP))
    print(json.dumps({"penalty": penalty, "prompts": len(pairs), "changed_by_it": changed}))
    answer = client.post("/v1/chat/completions", json=requests[0], headers={"x-loragate-debug": "1"})
    told = json.loads(answer.headers["x-loragate-debug"])
    assert told["repetition_penalty"] == {"value": penalty, "from": "model"}
    assert told["temperature"] == {"value": 0, "from": "request"}
