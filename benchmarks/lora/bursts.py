"""Bursts: one request per model at the same moment, and the rates of prefill and decode in them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness.client import RequestResult, TenantClients
from benchmarks.harness.errors import BenchmarkFailed
from benchmarks.harness.workload import Request, random_words


class BurstFailed(BenchmarkFailed):
    """A request of a burst was not answered, so there is no rate."""


@dataclass(frozen=True, slots=True)
class Burst:
    """Sizes of the requests of a burst."""

    prompt_words: int
    output_tokens: int

    async def send(
        self, clients: TenantClients, tenant: str, models: Sequence[str], seed: int
    ) -> list[RequestResult]:
        """Send one request per entry of `models`, all at once. Raises: BurstFailed."""
        requests = [
            Request(place, tenant, model, self._prompt(seed, place), self.output_tokens)
            for place, model in enumerate(models)
        ]
        origin_s = time.perf_counter()
        results = await asyncio.gather(*(clients.send(request, origin_s) for request in requests))
        for result in results:
            if result.error is not None or not result.event_times_s:
                raise BurstFailed(f"{result.model} did not answer: {result.error or 'no token arrived'}.")
        return results

    def _prompt(self, seed: int, place: int) -> str:
        return random_words(random.Random(f"burst:{seed}:{place}"), self.prompt_words)


def prefill_rate(results: Sequence[RequestResult]) -> float:
    """Prompt tokens per second until the last request had its first token."""
    began_s = min(result.sent_s for result in results)
    took_s = max(result.event_times_s[0] for result in results) - began_s
    return sum(result.prompt_tokens for result in results) / took_s


def decode_rate(results: Sequence[RequestResult]) -> float:
    """Tokens per second while all requests were generating: without prefill and without a shrinking batch."""
    began_s = max(result.event_times_s[0] for result in results)
    ended_s = min(result.event_times_s[-1] for result in results)
    if ended_s <= began_s:
        raise BurstFailed("The requests never generated at the same time: use more --output-tokens.")
    # A token belongs to the time before it, so the token at the start of the interval was generated outside it.
    inside = sum(result.tokens_within(began_s + 1e-9, ended_s + 1e-9) for result in results)
    return inside / (ended_s - began_s)
