"""Train → serve: the served adapter against peft in transformers, log-probabilities and greedy answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import openai

import demo
from adapters.training.evaluation.peft_reference import Reference, references
from benchmarks.harness.servers import EngineFlags, start_ours
from benchmarks.serving.options import DEMO_KEYS

MAX_NEW_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Parity:
    """``difference``: the largest of any prompt token's log-probability; ``equal`` of ``asked`` greedy answers."""

    difference: float
    equal: int
    asked: int


def measure_parity(home: Path, prompts: int) -> Parity:
    """Serve the demo in float32 and compare ``prompts`` held-out turns, shared out over its adapters.

    Raises:
        ServerFailed: the server does not come up.
    """
    names = list(demo.ADAPTERS)
    found: list[Parity] = []
    with start_ours(EngineFlags(model=demo.MODEL_DIR, name=demo.SERVED_NAME), home, demo=True) as server:
        server.wait_ready()
        for at, name in enumerate(names):
            adapter = demo.ADAPTERS[name]
            count = len(range(at, prompts, len(names)))
            wanted = references(
                demo.MODEL_DIR, adapter.path, adapter.held_out, count=count, max_new_tokens=MAX_NEW_TOKENS
            )
            with openai.OpenAI(base_url=f"{server.url}/v1", api_key=DEMO_KEYS[adapter.tenant]) as client:
                found.append(compare(client, name, wanted))
    return Parity(max(p.difference for p in found), sum(p.equal for p in found), sum(p.asked for p in found))


def compare(client: openai.OpenAI, model: str, wanted: Sequence[Reference]) -> Parity:
    """Ask the server for the same."""
    differences, equal = [], 0
    for reference in wanted:
        served = _prompt_logprobs(client, model, reference.ids)
        differences += [abs(a - b) for a, b in zip(served, reference.logprobs, strict=True)]
        equal += _greedy(client, model, reference.prompt) == reference.answer
    return Parity(max(differences), equal, len(wanted))


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
