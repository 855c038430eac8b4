"""Blends of adapters on a real base answer as PEFT's `add_weighted_adapter(combination_type="cat")` does."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import torch
from peft import get_peft_model

from benchmarks.real.greedy_answers import unlike_greedy
from tests.engine.peft_variants import FEW, lora
from tests.real.prompts import QUESTIONS
from tests.real.real_answers import RealModel

TOKENS, ASKED = 16, 50
SCALES = {"left": 1.0, "right": -0.5}
ADAPTERS = "/admin/v1/adapters/real"
#: Of the noise that stands for the training of both adapters.
NOISE = 0.004
#: As in `test_greedy_answers`.
GAP = 1e-3
pytestmark = pytest.mark.timeout(1800)

Answers = list[tuple[list[int], list[int]]]  # (prompt, answer)


@dataclass(frozen=True)
class Reference:
    """PEFT's model with both adapters and their combination, of which one is active."""

    model: Any
    prompts: list[list[int]]

    def unlike(self, adapter: str, answers: Answers) -> int:
        """How many answers are not the greedy ones of this adapter."""
        self.model.set_adapter(adapter)
        return sum(place is not None for place in unlike_greedy(self.model, answers, gap=GAP))


@pytest.fixture(scope="module")
def reference(
    client: httpx.Client, real: RealModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reference]:
    """Two adapters with different ranks, scalings and modules, which the server has, too; the whole has rank 16."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("blends")
    model = get_peft_model(copy.deepcopy(real.base), lora(r=8, lora_alpha=16), adapter_name="left")
    model.add_adapter("right", lora(r=8, lora_alpha=12, use_rslora=True, target_modules=FEW))
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter += NOISE * torch.randn(parameter.shape, generator=noise)
    model.save_pretrained(folder, save_embedding_layers=False)
    model.eval().add_weighted_adapter(list(SCALES), list(SCALES.values()), "whole", combination_type="cat")
    for name in SCALES:
        added = client.post(f"{ADAPTERS}/{name}/versions", json={"source": str(folder / name)})
        assert added.status_code == 201, added.text
    prompts = [real.prompt([{"role": "user", "content": question}]) for question in QUESTIONS[:ASKED]]
    yield Reference(model, prompts)
    for name in (*SCALES, "whole"):
        client.delete(f"{ADAPTERS}/{name}")


def served(client: httpx.Client, prompts: list[list[int]], **body: Any) -> Answers:
    def one(prompt: list[int]) -> list[int]:
        asked = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "repetition_penalty": 1.0}
        answer = client.post("/v1/completions", json=asked | {"return_token_ids": True, **body})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["choices"][0]["token_ids"])

    with ThreadPoolExecutor(16) as threads:
        return list(zip(prompts, threads.map(one, prompts), strict=True))


def test_a_version_that_was_blended_answers_as_pefts(client: httpx.Client, reference: Reference) -> None:
    body = {"of": [{"adapter": name, "scale": scale} for name, scale in SCALES.items()]}
    made = client.post(f"{ADAPTERS}/whole/blend", json=body)
    assert made.status_code == 201, made.text
    assert made.json()["rank"] == 16 and made.json()["recipe"]["relative_error"] == 0
    answers = served(client, reference.prompts, model="real-whole")
    different = reference.unlike("whole", answers)
    others = reference.unlike("left", answers)
    print(json.dumps({"blend": "version", "equal": ASKED - different, "of": ASKED, "unlike_one": others}))
    assert different == 0
    assert others >= 5, "the second adapter must matter"


def test_the_blend_of_a_request_answers_as_pefts(client: httpx.Client, reference: Reference) -> None:
    adapters = [{"name": f"real-{name}", "scale": scale} for name, scale in SCALES.items()]
    answers = served(client, reference.prompts, adapters=adapters)
    different = reference.unlike("whole", answers)
    print(json.dumps({"blend": "request", "equal": ASKED - different, "of": ASKED}))
    assert different == 0
