"""Blends answer as PEFT's `add_weighted_adapter(combination_type="cat")` does, token for token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from server_process import ServerProcess
from transformers import AutoTokenizer

import demo
from tests.engine.peft_variants import ALL, FEW, base_model, lora

TOKENS = 12
SCALES = {"left": 1.0, "right": -1.0}
QUESTIONS = [
    f"{text} {number}"
    for text in ("Where is my order", "Hello! What is", "What is 7 plus", "Write a haiku about", "Who is")
    for number in range(10)
]
ADAPTERS = "/admin/v1/adapters/acme"

Answers = list[list[int]]


@dataclass(frozen=True)
class Reference:
    """Two adapters as PEFT saved them, and the answers of PEFT's combination of them."""

    folders: dict[str, Path]
    prompts: Answers
    answers: Answers
    of_left: Answers


def generate(model: Any, prompts: Answers) -> Answers:
    """Greedy tokens, always as many; the end token is one like the others."""
    found = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([prompt])
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=TOKENS,
                min_new_tokens=TOKENS,
                do_sample=False,
                repetition_penalty=1.0,
                pad_token_id=0,
                eos_token_id=None,
            )
            found.append(out[0, len(prompt) :].tolist())
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """Two adapters with different ranks, scalings and modules; the whole has the rank 16."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    from peft import get_peft_model

    folder = tmp_path_factory.mktemp("blends")
    model = get_peft_model(base_model(), lora(r=8, target_modules=ALL), adapter_name="left")
    model.add_adapter("right", lora(r=8, lora_alpha=12, use_rslora=True, target_modules=FEW))
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=noise)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    prompts = [tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=False) for c in chats]
    model.eval().set_adapter("left")
    of_left = generate(model, prompts)
    model.add_weighted_adapter(list(SCALES), list(SCALES.values()), "whole", combination_type="cat")
    model.set_adapter("whole")
    yield Reference({name: folder / name for name in SCALES}, prompts, generate(model, prompts), of_left)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def client(server: ServerProcess, reference: Reference) -> Iterator[httpx.Client]:
    headers = {"authorization": "Bearer demo-admin"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        for name, folder in reference.folders.items():
            added = client.post(f"{ADAPTERS}/{name}/versions", json={"source": str(folder)})
            assert added.status_code == 201, added.text
        yield client
        for name in ("left", "right", "whole"):
            client.delete(f"{ADAPTERS}/{name}")


def served(client: httpx.Client, prompts: Answers, **body: Any) -> Answers:
    def one(prompt: list[int]) -> list[int]:
        asked = {
            "prompt": prompt,
            "max_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            **body,
        }
        answer = client.post("/v1/completions", json=asked)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["choices"][0]["token_ids"])

    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(one, prompts))


def equal(found: Answers, wanted: Answers) -> int:
    return sum(a == b for a, b in zip(found, wanted, strict=True))


def test_a_version_that_was_blended_answers_as_pefts(client: httpx.Client, reference: Reference) -> None:
    body = {"of": [{"adapter": name, "scale": scale} for name, scale in SCALES.items()]}
    made = client.post(f"{ADAPTERS}/whole/blend", json=body)
    assert made.status_code == 201, made.text
    assert made.json()["rank"] == 16 and made.json()["recipe"]["relative_error"] == 0
    found = served(client, reference.prompts, model="acme-whole")
    print(json.dumps({"equal": equal(found, reference.answers), "of": len(found)}))
    assert found == reference.answers
    assert equal(reference.answers, reference.of_left) < 25, "the second adapter must matter"


def test_the_blend_of_a_request_answers_as_pefts(client: httpx.Client, reference: Reference) -> None:
    adapters = [{"name": f"acme-{name}", "scale": scale} for name, scale in SCALES.items()]
    found = served(client, reference.prompts, adapters=adapters)
    print(json.dumps({"equal": equal(found, reference.answers), "of": len(found)}))
    assert found == reference.answers
    assert served(client, reference.prompts[:10], model="acme-left") == reference.of_left[:10]


def test_a_chat_with_a_blend_says_of_which_versions(client: httpx.Client) -> None:
    body = {
        "model": "acme-left",
        "messages": [{"role": "user", "content": QUESTIONS[0]}],
        "adapters": [{"name": "acme-left"}, {"name": "acme-right", "scale": 0.5}],
        "stream": True,
        "max_tokens": 4,
    }
    answer = client.post("/v1/chat/completions", json=body, headers={"x-loragate-debug": "1"})
    debug = json.loads(answer.headers["x-loragate-debug"])
    assert debug["adapters"]["value"] == [
        {"name": "acme-left@1", "scale": 1.0},
        {"name": "acme-right@1", "scale": 0.5},
    ]
    assert '"model":"acme-left"' in answer.text and answer.text.rstrip().endswith("data: [DONE]")
    assert "x-loragate-ignored" not in answer.headers
