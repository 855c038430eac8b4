"""Clients that ask for more than their tenants' limits allow, on all servers at once."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from benchmarks.many_servers.limited_tenants import ANSWERED, Call, LimitedTenant
from benchmarks.many_servers.recount import Interval
from demo import SERVED_NAME

_TIMEOUT_S = 60.0
#: A refused client sends again after this time in the mean.
PAUSE_S = 0.4


class LimitClients:
    """Clients of all tenants on all servers; `calls` has what their calls came to.

    Args:
        urls: the servers.
        keys: tenant → bearer key.
        clients: how many of each tenant on each server.
    """

    def __init__(self, urls: Sequence[str], keys: Mapping[str, str], clients: int) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._servers = [httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, limits=limits) for url in urls]
        self._keys = keys
        self._clients = clients
        self.calls: list[Call] = []

    async def run(self, tenants: Sequence[LimitedTenant], until_s: float) -> None:
        """Send until this moment of the monotonic clock, and read all answers to their end."""
        clients = [
            self._client(server, tenant, random.Random(f"{tenant.name} {place} {number}"), until_s)
            for place, server in enumerate(self._servers)
            for tenant in tenants
            for number in range(self._clients)
        ]
        await asyncio.gather(*clients)
        await asyncio.gather(*(server.aclose() for server in self._servers))

    async def _client(
        self, server: httpx.AsyncClient, tenant: LimitedTenant, draw: random.Random, until_s: float
    ) -> None:
        while time.monotonic() < until_s:
            call = await self._send(server, tenant, draw)
            self.calls.append(call)
            if call.outcome != ANSWERED:
                await asyncio.sleep(PAUSE_S * (0.5 + draw.random()))

    async def _send(self, server: httpx.AsyncClient, tenant: LimitedTenant, draw: random.Random) -> Call:
        length = draw.randint(*tenant.output_tokens)
        body: dict[str, Any] = {"model": SERVED_NAME, "prompt": "Hello " * draw.randint(1, 4)}
        body |= {"max_tokens": length, "min_tokens": length, "ignore_eos": True}
        headers = {"authorization": f"Bearer {self._keys[tenant.name]}"}
        request = server.build_request("POST", "/v1/completions", json=body, headers=headers)
        if tenant.streams:
            options = {"stream": True, "stream_options": {"include_usage": True}}
            request = server.build_request("POST", "/v1/completions", json=body | options, headers=headers)
        sent_s = time.monotonic()
        try:
            answer = await server.send(request, stream=tenant.streams)
            if answer.status_code != 200:
                await answer.aread()
                code = answer.json()["error"]["code"]
                return Call(tenant.name, sent_s, time.monotonic(), str(code))
            tokens, ran = await _read(answer, tenant.streams)
        except httpx.HTTPError as error:
            return Call(tenant.name, sent_s, time.monotonic(), type(error).__name__)
        ended_s = time.monotonic()
        outcome = ANSWERED if tokens else "cut off"
        return Call(tenant.name, sent_s, ended_s, outcome, sent_s, ((ended_s, tokens),), ran)


async def _read(answer: httpx.Response, streams: bool) -> tuple[int, Interval | None]:
    """The tokens of an answer, 0 where it was cut off, and when it surely ran."""
    if not streams:
        return int(answer.json()["usage"]["total_tokens"]), None
    moments: list[float] = []
    tokens = 0
    async for line in answer.aiter_lines():
        if line.startswith("data: {"):
            event = json.loads(line[6:])
            if event.get("choices"):
                moments.append(time.monotonic())
            tokens = int((event.get("usage") or {}).get("total_tokens", 0))
    await answer.aclose()
    return tokens, (moments[0], moments[-2]) if len(moments) > 1 else None
