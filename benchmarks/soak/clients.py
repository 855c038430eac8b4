"""The clients of the soak: some read their answers, some disconnect early, and one exceeds its rate limit."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

import demo
from benchmarks.harness.admin_client import create_tenant
from benchmarks.harness.demo_server import DEMO_KEYS, OPERATOR_KEY

_BASE = demo.SERVED_NAME
#: (key, model): the adapters of two tenants, and the base model with both keys.
_TARGETS = (
    *((DEMO_KEYS[adapter.tenant], name) for name, adapter in demo.ADAPTERS.items()),
    *((key, _BASE) for key in DEMO_KEYS.values()),
)
_QUESTIONS = (
    "Hello!",
    "Where is my order?",
    "What is the capital of France?",
    "Tell me a story about a fox.",
)
_LIMITED, _LIMITED_RPM = "limited", 30
_TIMEOUT_S = 60.0


@dataclass(slots=True)
class SoakCounters:
    """Requests by outcome, and swaps."""

    answered: int = 0
    left_early: int = 0
    refused: int = 0
    swaps: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, float]:
        """The figures of the report."""
        return asdict(self) | {"errors": self.errors.total()}


async def send_requests(http: httpx.AsyncClient, counters: SoakCounters, number: int) -> None:
    """Request a stream or a whole answer from a random target, in a loop; count errors."""
    rng = random.Random(number)
    while True:
        key, model = rng.choice(_TARGETS)
        stream = rng.random() < 0.5
        body = _body(model, rng, stream=stream)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer = await http.post("/v1/chat/completions", json=body, headers=_bearer(key))
        except (httpx.HTTPError, TimeoutError) as error:
            counters.errors[type(error).__name__] += 1
            continue
        kind = _error_kind(answer, stream=stream)
        if kind is None:
            counters.answered += 1
        else:
            counters.errors[kind] += 1


async def disconnect_early(http: httpx.AsyncClient, counters: SoakCounters) -> None:
    """Open a stream of a long answer and disconnect after a few events, in a loop."""
    rng = random.Random()
    while True:
        key, model = rng.choice(_TARGETS)
        body = _body(model, rng, stream=True) | {"max_tokens": 500, "ignore_eos": True}
        headers = _bearer(key) | {"connection": "close"}
        try:
            async with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
                if answer.status_code != 200:
                    counters.errors[str(answer.status_code)] += 1
                events = rng.randint(1, 20)
                async for _ in answer.aiter_lines():
                    events -= 1
                    if events == 0:
                        break
            counters.left_early += 1
        except httpx.HTTPError as error:
            counters.errors[type(error).__name__] += 1


async def exceed_rate_limit(http: httpx.AsyncClient, counters: SoakCounters) -> None:
    """Send twice the requests that a new tenant may send; any refusal but a 429 is counted as an error."""
    key = await create_tenant(http, OPERATOR_KEY, _LIMITED, rpm=_LIMITED_RPM)
    while True:
        body = _body(_BASE, random.Random(0), stream=False) | {"max_tokens": 2}
        try:
            answer = await http.post("/v1/chat/completions", json=body, headers=_bearer(key))
        except httpx.HTTPError as error:
            counters.errors[type(error).__name__] += 1
            continue
        if answer.status_code == 429 and 1 <= int(answer.headers.get("retry-after", 0)) <= 120:
            counters.refused += 1
        elif answer.status_code != 200:
            counters.errors[str(answer.status_code)] += 1
        await asyncio.sleep(30.0 / _LIMITED_RPM)


def _error_kind(answer: httpx.Response, *, stream: bool) -> str | None:
    """The kind of error of an answer: its status, a missing end, or an error event in its stream; None if good."""
    if answer.status_code != 200:
        return str(answer.status_code)
    if not stream:
        return None
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        return "cut off"
    return "error event" if any("error" in json.loads(event) for event in events[:-1]) else None


def _body(model: str, rng: random.Random, *, stream: bool) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": rng.choice(_QUESTIONS)}],
        "max_tokens": rng.choice((1, 8, 32, 96)),
        "temperature": rng.choice((0.0, 0.8)),
        "stream": stream,
    }


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
