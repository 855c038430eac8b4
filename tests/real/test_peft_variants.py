"""Adapters of many of PEFT's kinds on a real base: served as peft computes them, or refused with the next step."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from custom_server import SERVED_NAME

from benchmarks.real.greedy_answers import next_logits
from tests.engine import peft_variants
from tests.engine.peft_variants import REFUSED, SERVED
from tests.real.prompts import QUESTIONS
from tests.real.real_answers import RealModel

#: The kinds whose making is quick at this size, and whose size follows that of the noise.
KINDS = [
    "plain",
    "all-linear",
    "attention only",
    "modules by a regular expression",
    "some layers",
    "rank 12, alpha 6.5",
    "rsLoRA",
    "patterns of names",
    "patterns with alternatives and look-ahead",
    "gaussian",
    "orthogonal",
    "MiCA",
    "PiSSA with patterns, converted",
    "OLoRA with rsLoRA, converted",
    "LoRA-GA, converted",
    "16 bits",
]
NOT_SERVED = [
    "fast PiSSA",
    "OLoRA",
    "LoRA-GA",
    "DoRA",
    "biases of B",
    "VeRA",
    "rank 24",
    "LoRA on the embedding",
    "untrained",
]
ADAPTER = "/admin/v1/adapters/real/variants/versions"
ASKED, NOISE_ASKED, TOP = 4, 60, 20
#: Of the noise in an adapter. With 0.02 some change log-probabilities by 20 units, and rounding is larger: peft's
#: float32 then differs from its float64 by 1e-3.
SIZE = 0.004
pytestmark = pytest.mark.timeout(900)

Answers = list[dict[int, float]]  # for each question: the log-probabilities of the most likely first tokens


def prompts(real: RealModel, count: int) -> list[list[int]]:
    return [real.prompt([{"role": "user", "content": question}]) for question in QUESTIONS[:count]]


def served(client: httpx.Client, model: str, ids: list[list[int]]) -> Answers:
    body = {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": TOP}
    answer = client.post("/v1/completions", json={**body, "return_tokens_as_token_ids": True})
    assert answer.status_code == 200, answer.text
    steps = [choice["logprobs"]["top_logprobs"][0] for choice in answer.json()["choices"]]
    return [{int(token.removeprefix("token_id:")): value for token, value in step.items()} for step in steps]


def computed(model: Any, ids: list[list[int]]) -> list[torch.Tensor]:
    """Log-probabilities [V] of each prompt's next token."""
    return [logits[0].log_softmax(-1) for logits in next_logits(model, [(prompt, [0]) for prompt in ids])]


def difference(answers: Answers, reference: list[torch.Tensor]) -> float:
    """The largest of any first token."""
    pairs = zip(answers, reference, strict=True)
    return max(abs(value - float(want[token])) for found, want in pairs for token, value in found.items())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peft_variants, "SIZE", SIZE)


@pytest.fixture(scope="module")
def base(real: RealModel) -> list[torch.Tensor]:
    return computed(real.base, prompts(real, NOISE_ASKED))


@pytest.fixture(scope="module")
def noise(client: httpx.Client, real: RealModel, base: list[torch.Tensor]) -> float:
    """How much the server and transformers, both in float32, differ on the base model alone."""
    found = difference(served(client, SERVED_NAME, prompts(real, NOISE_ASKED)), base)
    print(json.dumps({"base": found}))
    assert 0 < found < 1e-3
    return found


@pytest.mark.parametrize("name", KINDS)
def test_it_answers_as_in_training(
    client: httpx.Client, real: RealModel, base: list[torch.Tensor], noise: float, tmp_path: Path, name: str
) -> None:
    torch.manual_seed(0)
    model = SERVED[name].build(copy.deepcopy(real.base), tmp_path)
    asked = prompts(real, ASKED)
    reference = computed(model, asked)
    del model
    added = client.post(ADAPTER, json={"source": str(tmp_path)})
    assert added.status_code == 201, added.text
    found = difference(served(client, f"real-variants@{added.json()['number']}", asked), reference)
    changed = max(float((a - b).abs().max()) for a, b in zip(reference, base[:ASKED], strict=True))
    print(json.dumps({"kind": name, "difference": found, "base": noise, "changed": round(changed, 2)}))
    assert changed > 0.05, "the adapter must matter"
    assert found <= noise


@pytest.mark.parametrize("name", NOT_SERVED)
def test_it_is_refused_with_the_next_step(
    client: httpx.Client, real: RealModel, tmp_path: Path, name: str
) -> None:
    kind = REFUSED[name]
    torch.manual_seed(0)
    kind.build(copy.deepcopy(real.base), tmp_path)
    refused = client.post(ADAPTER, json={"source": str(tmp_path)})
    assert refused.status_code == 400, refused.text
    assert kind.told is not None and kind.told in refused.json()["error"]["message"]
