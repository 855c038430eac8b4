"""Each kind of adapter that PEFT writes is refused with a helpful sentence, or answers as it did in training."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from server_process import ServerProcess
from transformers import AutoTokenizer

import demo
from tests.engine.peft_variants import REFUSED, SERVED, backup, base_model

QUESTIONS = ("Where is my order 4711?", "Hello!", "Write a haiku about rain in the mountains, please.")
TOP = 20
ADAPTER = "/admin/v1/adapters/acme/variants"
NOISE_QUESTIONS = tuple(f"{question} {n}" for n in range(12) for question in QUESTIONS)

Answers = list[dict[int, float]]  # for each question: the log-probabilities of the most likely first tokens


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices, beside an engine that uses all cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    headers = {"authorization": "Bearer demo-admin"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        yield client
        client.delete(ADAPTER)


@cache
def prompts(questions: tuple[str, ...] = QUESTIONS) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    chats = [[{"role": "user", "content": question}] for question in questions]
    return [tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=False) for c in chats]


@cache
def base() -> Any:
    return base_model()


def served(client: httpx.Client, model: str, questions: tuple[str, ...] = QUESTIONS) -> Answers:
    body = {"model": model, "prompt": prompts(questions), "max_tokens": 1, "temperature": 0, "logprobs": TOP}
    answer = client.post("/v1/completions", json={**body, "return_tokens_as_token_ids": True})
    assert answer.status_code == 200, answer.text
    steps = [choice["logprobs"]["top_logprobs"][0] for choice in answer.json()["choices"]]
    return [{int(token.removeprefix("token_id:")): value for token, value in step.items()} for step in steps]


def computed(model: Any, questions: tuple[str, ...] = QUESTIONS) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([p])).logits[0, -1].log_softmax(-1) for p in prompts(questions)]


def difference(answers: Answers, reference: list[torch.Tensor]) -> float:
    """The largest of any first token."""
    pairs = zip(answers, reference, strict=True)
    return max(abs(value - float(want[token])) for found, want in pairs for token, value in found.items())


@pytest.fixture(scope="module")
def noise(client: httpx.Client) -> float:
    """How much the server and transformers, both in float32, differ on the base model alone."""
    answers = served(client, demo.SERVED_NAME, NOISE_QUESTIONS)
    return difference(answers, computed(base(), NOISE_QUESTIONS))


def test_the_noise_is_that_of_two_implementations(noise: float) -> None:
    print(json.dumps({"base": noise}))
    assert 0 < noise < 1e-4


def add(client: httpx.Client, folder: Path) -> httpx.Response:
    return client.post(f"{ADAPTER}/versions", json={"source": str(folder)})


@pytest.mark.parametrize("name", SERVED)
def test_it_answers_as_in_training(client: httpx.Client, noise: float, tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model = SERVED[name].build(copy.deepcopy(base()), tmp_path)
    reference = computed(model)
    added = add(client, tmp_path)
    assert added.status_code == 201, added.text
    assert added.json()["warnings"] == []
    found = difference(served(client, f"acme-variants@{added.json()['number']}"), reference)
    changed = max(float((a - b).abs().max()) for a, b in zip(reference, computed(base()), strict=True))
    print(json.dumps({"kind": name, "difference": found, "base": noise, "changed": changed}))
    assert changed > 0.05, "the adapter must matter"
    assert found <= noise


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_the_next_step(client: httpx.Client, tmp_path: Path, name: str) -> None:
    kind = REFUSED[name]
    torch.manual_seed(0)
    kind.build(copy.deepcopy(base()), tmp_path)
    refused = add(client, tmp_path)
    assert refused.status_code == 400, refused.text
    assert kind.told is not None and kind.told in refused.json()["error"]["message"]
    if name == "in a sub-folder":
        assert add(client, tmp_path / "support").status_code == 201


def test_what_only_the_weights_tell_is_a_hint(client: httpx.Client, tmp_path: Path) -> None:
    backup(copy.deepcopy(base()), tmp_path)
    added = add(client, tmp_path)
    assert added.status_code == 201, added.text
    (warning,) = added.json()["warnings"]
    assert "Its weights resemble the base model's own" in warning and "pissa_converted" in warning
    shown = client.get(ADAPTER).json()["versions"]
    assert [v["warnings"] for v in shown if v["number"] == added.json()["number"]] == [[warning]]
