"""The requests that the servers are compared with."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import demo
from benchmarks.front.client import Load
from benchmarks.harness.demo_server import DEMO_KEYS
from benchmarks.harness.workload import random_words

PROMPT_WORDS = 24
ANSWER_TOKENS = 128
_PATH = "/v1/chat/completions"

_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@dataclass(frozen=True, slots=True)
class Case:
    """What the requests of a run have beside their prompt.

    Args:
        name: in figures.
        adapters: adapters of the demo that are called in turn; none is the base model.
        options: fields of each body.
    """

    name: str
    adapters: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


PLAIN = Case("plain")
CASES = (
    PLAIN,
    Case("usage", options={"stream_options": {"include_usage": True}}),
    Case("adapters", adapters=tuple(demo.ADAPTERS)),
    Case("tools", options={"tools": [_TOOL]}),
    Case("logprobs", options={"logprobs": True, "top_logprobs": 2}),
)


def make_load(
    case: Case,
    port: int,
    requests: int,
    seed: int,
    *,
    streams: int = 1,
    due_s: list[float] | None = None,
) -> Load:
    """The same requests for every server: the tenants of the demo take turns, each prompt is another one."""
    rng = random.Random(f"front:{case.name}:{seed}")
    headers, bodies = [], []
    for tenant, model in itertools.islice(_callers(case), requests):
        headers.append(f"authorization: Bearer {DEMO_KEYS[tenant]}\r\n")
        bodies.append(
            json.dumps(
                {
                    "model": model,
                    "messages": [{"role": "user", "content": random_words(rng, PROMPT_WORDS)}],
                    "max_tokens": ANSWER_TOKENS,
                    "stream": True,
                    **case.options,
                }
            )
        )
    return Load(port, _PATH, headers, bodies, due_s, streams)


def arrivals_s(rate_per_s: float, requests: int, seed: int) -> list[float]:
    """Due times of requests that arrive at random at a rate."""
    rng = random.Random(f"arrivals:{seed}")
    return list(itertools.accumulate(rng.expovariate(rate_per_s) for _ in range(requests)))


def _callers(case: Case) -> Iterator[tuple[str, str]]:
    """Tenant and model of each request."""
    if not case.adapters:
        return itertools.cycle((tenant, demo.SERVED_NAME) for tenant in DEMO_KEYS)
    return itertools.cycle((name.partition("-")[0], name) for name in case.adapters)
