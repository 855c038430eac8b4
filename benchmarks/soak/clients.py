"""The clients of `benchmarks.soak.benchmark`: those who ask, those who leave, and one who asks for too much."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

import demo

OPERATOR_KEY = "demo-admin"
_BASE = demo.SERVED_NAME
#: (key, model): two tenants' adapters and the base model under both.
_TARGETS = (
    ("demo-acme", "acme-support"),
    ("demo-globex", "globex-tools"),
    ("demo-acme", _BASE),
    ("demo-globex", _BASE),
)
_QUESTIONS = (
    "Hello!",
    "Where is my order?",
    "What is the capital of France?",
    "Tell me a story about a fox.",
)
_LIMITED, _LIMITED_RPM = "limited", 30
_TIMED_OUT_S = 60.0


@dataclass(slots=True)
class Counts:
    """What happened."""

    answered: int = 0
    left: int = 0
    refused: int = 0
    swaps: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, float]:
        """As numbers for the report."""
        return {
            "answered": self.answered,
            "left_early": self.left,
            "refused": self.refused,
            "swaps": self.swaps,
            "errors": self.errors.total(),
        }


async def ask_for_ever(http: httpx.AsyncClient, counts: Counts, number: int) -> None:
    """Stream, or wait for the whole answer, of all targets in turn."""
    draw = random.Random(number)
    while True:
        key, model = draw.choice(_TARGETS)
        stream = draw.random() < 0.5
        body = _body(model, draw, stream=stream)
        try:
            async with asyncio.timeout(_TIMED_OUT_S):
                answer = await http.post("/v1/chat/completions", json=body, headers=_bearer(key))
        except (httpx.HTTPError, TimeoutError) as error:
            counts.errors[type(error).__name__] += 1
            continue
        fault = _fault(answer, stream=stream)
        if fault is None:
            counts.answered += 1
        else:
            counts.errors[fault] += 1


async def leave_for_ever(http: httpx.AsyncClient, counts: Counts) -> None:
    """Open a stream of a long answer and leave it after a few events."""
    draw = random.Random()
    while True:
        key, model = draw.choice(_TARGETS)
        body = _body(model, draw, stream=True) | {"max_tokens": 500, "ignore_eos": True}
        headers = _bearer(key) | {"connection": "close"}
        try:
            async with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
                if answer.status_code != 200:
                    counts.errors[str(answer.status_code)] += 1
                wanted = draw.randint(1, 20)
                async for _ in answer.aiter_lines():
                    wanted -= 1
                    if wanted == 0:
                        break
            counts.left += 1
        except httpx.HTTPError as error:
            counts.errors[type(error).__name__] += 1


async def exceed_for_ever(http: httpx.AsyncClient, counts: Counts) -> None:
    """A tenant that sends twice what it may: it must be refused with 429, and with nothing else."""
    admin = _bearer(OPERATOR_KEY)
    tenant = {"name": _LIMITED, "settings": {"rpm": _LIMITED_RPM}}
    (await http.post("/admin/v1/tenants", json=tenant, headers=admin)).raise_for_status()
    issued = await http.post("/admin/v1/keys", json={"tenant": _LIMITED}, headers=admin)
    key = issued.raise_for_status().json()["secret"]
    while True:
        body = _body(_BASE, random.Random(0), stream=False) | {"max_tokens": 2}
        try:
            answer = await http.post("/v1/chat/completions", json=body, headers=_bearer(key))
        except httpx.HTTPError as error:
            counts.errors[type(error).__name__] += 1
            continue
        if answer.status_code == 429 and 1 <= int(answer.headers.get("retry-after", 0)) <= 120:
            counts.refused += 1
        elif answer.status_code != 200:
            counts.errors[str(answer.status_code)] += 1
        await asyncio.sleep(30.0 / _LIMITED_RPM)


def _fault(answer: httpx.Response, *, stream: bool) -> str | None:
    """What is wrong with an answer: its status, an error in its stream, or its end that is missing."""
    if answer.status_code != 200:
        return str(answer.status_code)
    if not stream:
        return None
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        return "cut off"
    return "error event" if any("error" in json.loads(event) for event in events[:-1]) else None


def _body(model: str, draw: random.Random, *, stream: bool) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": draw.choice(_QUESTIONS)}],
        "max_tokens": draw.choice((1, 8, 32, 96)),
        "temperature": draw.choice((0.0, 0.8)),
        "stream": stream,
    }


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
