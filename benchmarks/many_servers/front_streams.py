"""Streams through a front and at its servers directly."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any

import httpx

from benchmarks.harness.demo_server import DEMO_KEYS
from benchmarks.harness.errors import BenchmarkFailed
from benchmarks.many_servers.ray_servers import listed

_MODEL, _KEY = "acme-support", {"authorization": f"Bearer {DEMO_KEYS['acme']}"}
_PACED_TOKENS = 200


async def added_ttft_ms(front: str, pairs: int) -> float:
    """Median time to the first token through the front, less that of the server that answers there.

    Args:
        front: its url.
        pairs: requests of each kind, one at a time, in turn.
    """
    async with httpx.AsyncClient(timeout=120) as client:
        urls = {row["id"]: row["url"] for row in listed(front)}
        through, directly = [], []
        for number in range(pairs + 5):
            ttft_s, _, server = await _stream(client, front, tokens=4)
            direct_s, _, _ = await _stream(client, urls[server], tokens=4)
            if number >= 5:  # connections and adapters are there
                through.append(ttft_s)
                directly.append(direct_s)
    return 1000 * (statistics.median(through) - statistics.median(directly))


async def paced_stream_ratio(front: str, streams: int, rounds: int) -> float:
    """How long streams take through the front, compared with as many at the servers in turn; the median round."""
    servers = [row["url"] for row in listed(front)]
    ratios = []
    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        for number in range(rounds + 1):
            directly = await _seconds(client, servers, streams)
            through = await _seconds(client, [front], streams)
            if number:
                ratios.append(through / directly)
    return statistics.median(ratios)


async def _seconds(client: httpx.AsyncClient, urls: Sequence[str], streams: int) -> float:
    """Mean duration of streams that begin together."""
    chosen = itertools.islice(itertools.cycle(urls), streams)
    done = await asyncio.gather(*(_stream(client, url, tokens=_PACED_TOKENS) for url in chosen))
    return statistics.mean(whole_s for _, whole_s, _ in done)


async def _stream(client: httpx.AsyncClient, url: str, *, tokens: int) -> tuple[float, float, str]:
    """Seconds to the first token and to the end, and the server that the front has chosen."""
    body: dict[str, Any] = {
        "model": _MODEL,
        "messages": [{"role": "user", "content": "Hello!"}],
        "max_tokens": tokens,
        "min_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
    }
    began, first_s = time.perf_counter(), None
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body, headers=_KEY) as answer:
        async for line in answer.aiter_lines():
            if first_s is None and '"content":"' in line and '"content":""' not in line:
                first_s = time.perf_counter() - began
    if answer.status_code != 200 or first_s is None:
        raise BenchmarkFailed(f"{url} answered {answer.status_code} without a token.")
    return first_s, time.perf_counter() - began, answer.headers.get("x-loragate-server", "")
