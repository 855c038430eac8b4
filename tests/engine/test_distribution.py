"""The engine samples from the distribution of `tests/unit/sampling/reference.py`, and is greedy as transformers is.

The logits are those of transformers on the same weights in float32, which `test_logits_are_the_engines` holds
against what the engine tells. One prompt, one token, `n` samples: they are cheap.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from custom_server import greedy_all
from server_process import ServerProcess

import demo
from tests.unit.sampling.reference import Counts, Decoding, Row, probabilities, softmax

BASE = demo.SERVED_NAME
PROMPT = "The capital of"
SHORT_SAMPLES = 2_000
LONG_SAMPLES = 20_000
#: Below the limit on `n` that a server has by default.
N_PER_REQUEST = 125
#: A right engine fails a test this seldom; seeds are fixed, so it either does or does not.
SIGNIFICANCE = 1e-4
#: Fewer expected samples than this in a cell, and chi-square is no approximation: such cells are put together.
LEAST_EXPECTED = 8.0

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cold": {"temperature": 0.5},
    "hot": {"temperature": 2.0},
    "top_p": {"top_p": 0.9},
    "top_k": {"temperature": 1.5, "top_k": 7},
    "min_p": {"temperature": 2.0, "min_p": 0.05},
    "all": {"temperature": 1.5, "top_k": 30, "top_p": 0.8, "min_p": 0.01},
}


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    headers = {"authorization": "Bearer demo-admin"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=280) as opened:
        yield opened


def complete(client: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    ask = {"model": BASE, "prompt": PROMPT, "max_tokens": 1, "return_token_ids": True, "ignore_eos": True}
    answer = client.post("/v1/completions", json=ask | body)
    assert answer.status_code == 200, answer.text
    choices: list[dict[str, Any]] = answer.json()["choices"]
    return choices


@pytest.fixture(scope="module")
def prompt(client: httpx.Client) -> tuple[int, ...]:
    """The prompt's token ids."""
    return tuple(client.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"])


@pytest.fixture(scope="module")
def logits(prompt: tuple[int, ...]) -> Row:
    """The next token's logits by transformers, in float32 as the engine's."""
    return _raw_logits(prompt)


def test_logits_are_the_engines(client: httpx.Client, logits: Row) -> None:
    body = {"logprobs": 20, "return_tokens_as_token_ids": True, "temperature": 0}
    top = complete(client, **body)[0]["logprobs"]["top_logprobs"][0]
    wanted = np.log(softmax(logits))
    assert len(top) >= 20
    for name, value in top.items():
        assert value == pytest.approx(wanted[int(name.removeprefix("token_id:"))], abs=2e-3)


def draw(client: httpx.Client, samples: int, **options: Any) -> Counter[int]:
    """How often each token came first in `samples` answers; each request has a seed of its own."""
    counts: Counter[int] = Counter()
    # NOTE: vLLM gives the k-th of n answers the seed `seed + k`: nearer seeds would draw the same samples again.
    for seed in range(0, samples, N_PER_REQUEST):
        drawn = complete(client, n=N_PER_REQUEST, seed=seed, **{"temperature": 1.0} | options)
        counts.update(choice["token_ids"][0] for choice in drawn)
    return counts


def p_value(counts: Counter[int], expected: Row) -> float:
    """Chi-square of the counts against the distribution, small cells put together."""
    samples = counts.total()
    order = np.argsort(-expected)
    seen, wanted = [0.0], [0.0]
    for token_id in order:
        if wanted[-1] >= LEAST_EXPECTED:
            seen.append(0.0)
            wanted.append(0.0)
        seen[-1] += counts[int(token_id)]
        wanted[-1] += samples * float(expected[token_id])
    if len(wanted) > 1 and wanted[-1] < LEAST_EXPECTED:
        rest_seen, rest_wanted = seen.pop(), wanted.pop()
        seen[-1] += rest_seen
        wanted[-1] += rest_wanted
    chi_square = sum((s - w) ** 2 / w for s, w in zip(seen, wanted, strict=True))
    freedom = len(wanted) - 1
    return upper_tail(chi_square, freedom) if freedom else 1.0


def upper_tail(chi_square: float, freedom: int) -> float:
    """P(X ≥ chi_square) for X ~ χ² with that many degrees of freedom: the regularised gamma function Q."""
    half = torch.tensor([freedom / 2, chi_square / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def check(counts: Counter[int], expected: Row) -> None:
    impossible = {token_id: n for token_id, n in counts.items() if expected[token_id] == 0}
    assert not impossible, f"tokens that cannot come were drawn: {impossible}"
    found = p_value(counts, expected)
    assert found > SIGNIFICANCE, f"{counts.total()} samples do not fit the reference: p = {found:.2g}"


def in_prompt(prompt: tuple[int, ...], vocabulary: int) -> Counts:
    """Counts of a first token: the prompt's alone."""
    return Counts(np.bincount(prompt, minlength=vocabulary), np.zeros(vocabulary, dtype=np.int64))


def test_the_statistics_can_fail() -> None:
    expected = np.array([0.5, 0.3, 0.2])
    rng = np.random.default_rng(1)
    right = Counter(rng.choice(3, 2000, p=expected).tolist())
    wrong = Counter(rng.choice(3, 2000, p=[0.4, 0.4, 0.2]).tolist())
    assert p_value(right, expected) > SIGNIFICANCE > p_value(wrong, expected)
    assert math.isclose(upper_tail(3.841, 1), 0.05, rel_tol=1e-3)


@pytest.mark.parametrize("name", ["plain", "top_p", "all"])
def test_samples_fit_the_reference(
    client: httpx.Client, logits: Row, prompt: tuple[int, ...], name: str
) -> None:
    expected = probabilities(logits, in_prompt(prompt, logits.size), Decoding(**SETTINGS[name]))
    check(draw(client, SHORT_SAMPLES, **SETTINGS[name]), expected)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SETTINGS)
def test_many_samples_fit_the_reference(
    client: httpx.Client, logits: Row, prompt: tuple[int, ...], name: str
) -> None:
    expected = probabilities(logits, in_prompt(prompt, logits.size), Decoding(**SETTINGS[name]))
    check(draw(client, LONG_SAMPLES, **SETTINGS[name]), expected)


def test_another_distribution_is_noticed(client: httpx.Client, logits: Row, prompt: tuple[int, ...]) -> None:
    """Samples at temperature 1.3 do not pass for samples at 1."""
    expected = probabilities(logits, in_prompt(prompt, logits.size), Decoding())
    assert p_value(draw(client, SHORT_SAMPLES, temperature=1.3), expected) < SIGNIFICANCE


def test_biases_and_penalties_fit_the_reference(
    client: httpx.Client, logits: Row, prompt: tuple[int, ...]
) -> None:
    """Four tokens, two of them in the prompt, biased both ways, so that the penalty divides and multiplies."""
    fresh = [i for i in range(100, 1000) if i not in prompt][:2]
    bias = {prompt[0]: 100.0, prompt[1]: -100.0, fresh[0]: 98.0, fresh[1]: 97.0}
    level = {token: amount - float(logits[token]) for token, amount in bias.items()}
    level = {token: max(-100.0, min(100.0, amount)) for token, amount in level.items()}
    options = {"repetition_penalty": 1.02, "temperature": 1.5}
    decoding = Decoding(logit_bias=level, allowed_token_ids=tuple(level), **options)
    expected = probabilities(logits, in_prompt(prompt, logits.size), decoding)
    assert (expected > 0.05).sum() >= 2, expected[list(level)]
    drawn = draw(
        client,
        SHORT_SAMPLES,
        logit_bias={str(token): amount for token, amount in level.items()},
        allowed_token_ids=list(level),
        **options,
    )
    check(drawn, expected)


def test_penalties_on_the_answer_fit_the_reference(
    client: httpx.Client, logits: Row, prompt: tuple[int, ...]
) -> None:
    """Of two equal tokens, the one that came first is less likely to come second, by exactly the penalties."""
    one, other = [i for i in range(100, 1000) if i not in prompt][:2]
    bias = {one: 100.0, other: 100.0}
    options = {"frequency_penalty": 0.7, "presence_penalty": 0.4}
    answers = [
        tuple(choice["token_ids"])
        for seed in range(0, SHORT_SAMPLES, N_PER_REQUEST)
        for choice in complete(
            client,
            n=N_PER_REQUEST,
            seed=seed,
            max_tokens=2,
            temperature=1.0,
            logit_bias={str(token): amount for token, amount in bias.items()},
            allowed_token_ids=[one, other],
            **options,
        )
    ]
    for first in (one, other):
        after = Counter(answer[1] for answer in answers if answer[0] == first)
        if after.total() < 100:
            continue
        row = _raw_logits((*prompt, first))
        counts = Counts(np.zeros(row.size, dtype=np.int64), np.bincount([first], minlength=row.size))
        decoding = Decoding(logit_bias=bias, allowed_token_ids=(one, other), **options)
        check(after, probabilities(row, counts, decoding))


@cache
def _model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(demo.MODEL_DIR, dtype=torch.float32).eval()


@cache
def _raw_logits(prompt: tuple[int, ...]) -> Row:
    with torch.inference_mode():
        row = _model()(torch.tensor([prompt])).logits[0, -1]
    return np.asarray(row.double().numpy())


# Greedy, against transformers

QUESTIONS = (
    "Hello!",
    "What is the capital of France?",
    "What is 12 + 9?",
    "Tell me a story about a fox.",
    "What is the price of the Storm Fan?",
    "What is the weather in Paris?",
)


@pytest.mark.parametrize("model", [BASE, *demo.ADAPTERS])
def test_greedy_is_what_transformers_generates(client: httpx.Client, model: str) -> None:
    wanted = [transformers_greedy(model, question) for question in QUESTIONS]
    served = [ids for _, ids in greedy_all(client, model, QUESTIONS)]
    assert served == wanted


def transformers_greedy(model: str, question: str, max_tokens: int = 32) -> list[int]:
    """Greedy token ids by transformers and peft, with the end token, float32."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.inference_mode():
        answer = _adapted(model).generate(**prompt, max_new_tokens=max_tokens, do_sample=False)
    ids: list[int] = answer[0, prompt["input_ids"].shape[1] :].tolist()
    return ids


@cache
def _adapted(model: str) -> Any:
    if model == BASE:
        return _model()
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(demo.MODEL_DIR, dtype=torch.float32)
    return PeftModel.from_pretrained(base, Path(demo.ADAPTERS[model].path)).eval()
