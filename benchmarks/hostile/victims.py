"""Short requests of other tenants, sent one after another, and how long the slowest took."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

import demo
from benchmarks.harness.demo_server import DEMO_KEYS

_PAUSE_S: Final = 0.03
_TIMEOUT_S: Final = 60.0
_HELLO: Final = [{"role": "user", "content": "Hello!"}]
_SCHEMA: Final = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
_FORMAT: Final = {"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA}}
_TOOL: Final = {"type": "function", "function": {"name": "look_up", "parameters": _SCHEMA}}


@dataclass(frozen=True, slots=True)
class Victim:
    """One kind of request; `body` is None for a GET."""

    name: str
    tenant: str
    path: str = "/v1/chat/completions"
    body: dict[str, Any] | None = None


def _chat(tenant: str, **fields: Any) -> dict[str, Any]:
    model = next(name for name, adapter in demo.ADAPTERS.items() if adapter.tenant == tenant)
    return {"model": model, "messages": _HELLO, "temperature": 0} | fields


VICTIMS: Final = (
    Victim("plain", "acme", body=_chat("acme", max_tokens=8)),
    Victim("structured", "acme", body=_chat("acme", max_tokens=16, response_format=_FORMAT)),
    Victim("tools", "globex", body=_chat("globex", max_tokens=16, tools=[_TOOL], tool_choice="required")),
    Victim("tokenize", "globex", "/tokenize", {"model": demo.SERVED_NAME, "prompt": "Hello!"}),
    Victim("health", "globex", "/health"),
)


@dataclass(slots=True)
class Latencies:
    """Seconds of each request by the victim's name, and failures by kind."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)

    def worst_s(self, name: str) -> float:
        """The slowest answer; 0 without any."""
        return max(self.seconds.get(name, []), default=0.0)


async def measure(http: httpx.AsyncClient, seconds: float) -> Latencies:
    """Let all victims send requests for a time; every request that was sent is waited for."""
    latencies = Latencies()
    until_s = time.monotonic() + seconds
    await asyncio.gather(*(_repeat(http, victim, latencies, until_s) for victim in VICTIMS))
    return latencies


async def _repeat(http: httpx.AsyncClient, victim: Victim, latencies: Latencies, until_s: float) -> None:
    headers = {"authorization": f"Bearer {DEMO_KEYS[victim.tenant]}"}
    method = "GET" if victim.body is None else "POST"
    while time.monotonic() < until_s:
        began_s = time.monotonic()
        try:
            answer = await http.request(
                method, victim.path, json=victim.body, headers=headers, timeout=_TIMEOUT_S
            )
        except httpx.HTTPError as error:
            latencies.failures[f"{victim.name}: {type(error).__name__}"] += 1
            continue
        if answer.status_code != 200:
            latencies.failures[f"{victim.name}: {answer.status_code}"] += 1
        latencies.seconds.setdefault(victim.name, []).append(time.monotonic() - began_s)
        await asyncio.sleep(_PAUSE_S)
