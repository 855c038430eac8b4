"""The served adapter against peft in transformers: log-probabilities and greedy answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import openai

import demo
from adapters.training.evaluation.peft_reference import Reference, references
from benchmarks.harness.demo_server import DEMO_FLAGS, DEMO_KEYS
from benchmarks.harness.servers import start_ours

MAX_NEW_TOKENS = 96


@dataclass(frozen=True, slots=True)
class ParityResult:
    """`difference`: the largest of a prompt token's log-probability; `equal` of `prompts` greedy answers."""

    difference: float
    equal: int
    prompts: int


def measure_parity(home: Path, prompts: int) -> ParityResult:
    """Serve the demo in float32 and compare `prompts` held-out turns, divided between its adapters.

    Raises:
        ServerFailed: the server does not start.
    """
    names = list(demo.ADAPTERS)
    found: list[ParityResult] = []
    with start_ours(DEMO_FLAGS, home, demo=True) as server:
        server.wait_ready()
        for at, name in enumerate(names):
            adapter = demo.ADAPTERS[name]
            count = len(range(at, prompts, len(names)))
            wanted = references(
                demo.MODEL_DIR, adapter.path, adapter.held_out, count=count, max_new_tokens=MAX_NEW_TOKENS
            )
            with openai.OpenAI(base_url=f"{server.url}/v1", api_key=DEMO_KEYS[adapter.tenant]) as client:
                found.append(compare(client, name, wanted))
    return ParityResult(
        max(p.difference for p in found), sum(p.equal for p in found), sum(p.prompts for p in found)
    )


def compare(client: openai.OpenAI, model: str, wanted: Sequence[Reference]) -> ParityResult:
    """Request the log-probabilities and answers of the same prompts from the server, and compare them."""
    differences, equal = [], 0
    for reference in wanted:
        served = _prompt_logprobs(client, model, reference.ids)
        differences += [abs(a - b) for a, b in zip(served, reference.logprobs, strict=True)]
        equal += _greedy(client, model, reference.prompt) == reference.answer
    return ParityResult(max(differences), equal, len(wanted))


def _prompt_logprobs(client: openai.OpenAI, model: str, ids: Sequence[int]) -> list[float]:
    answer = client.completions.create(
        model=model, prompt=list(ids), max_tokens=1, temperature=0.0, extra_body={"prompt_logprobs": 0}
    )
    rows = (answer.choices[0].model_extra or {})["prompt_logprobs"]
    return [float(row[str(token)]["logprob"]) for row, token in zip(rows[1:], ids[1:], strict=True)]


def _greedy(client: openai.OpenAI, model: str, prompt: Sequence[int]) -> tuple[int, ...]:
    answer = client.completions.create(
        model=model,
        prompt=list(prompt),
        max_tokens=MAX_NEW_TOKENS,
        temperature=0.0,
        extra_body={"return_token_ids": True},
    )
    return tuple((answer.choices[0].model_extra or {})["token_ids"])
