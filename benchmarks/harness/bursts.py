"""Bursts: one request per model at the same moment, and the rates of prefill and decode in them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness.client import Clients, Sample
from benchmarks.harness.workload import Request, sentence


class BurstFailed(RuntimeError):
    """A request of a burst was not answered: there is no rate."""


@dataclass(frozen=True, slots=True)
class Burst:
    """Sizes of a burst's requests."""

    prompt_words: int
    output_tokens: int

    async def send(self, clients: Clients, tenant: str, models: Sequence[str], seed: int) -> list[Sample]:
        """One request per entry of `models`, all at once. Raises: BurstFailed."""
        requests = [
            Request(place, tenant, model, self._prompt(seed, place), self.prompt_words, self.output_tokens)
            for place, model in enumerate(models)
        ]
        origin_s = time.perf_counter()
        samples = await asyncio.gather(*(clients.send(request, origin_s) for request in requests))
        for sample in samples:
            if sample.error is not None or not sample.pieces_s:
                raise BurstFailed(f"{sample.model} did not answer: {sample.error or 'no token came'}")
        return samples

    def _prompt(self, seed: int, place: int) -> str:
        return sentence(random.Random(f"burst:{seed}:{place}"), self.prompt_words)


def prefill_rate(samples: Sequence[Sample]) -> float:
    """Prompt tokens per second, until the last request had its first token."""
    began_s = min(sample.sent_s for sample in samples)
    took_s = max(sample.pieces_s[0] for sample in samples) - began_s
    return sum(sample.prompt_tokens for sample in samples) / took_s


def decode_rate(samples: Sequence[Sample]) -> float:
    """Tokens per second while all requests were generating: no prefill, no emptying batch."""
    began_s = max(sample.pieces_s[0] for sample in samples)
    over_s = min(sample.pieces_s[-1] for sample in samples)
    if over_s <= began_s:
        raise BurstFailed("the requests never generated at the same time; use more --output-tokens")
    # A token belongs to the time before it: the one that opens the span was made outside it.
    inside = sum(sample.tokens_within(began_s + 1e-9, over_s + 1e-9) for sample in samples)
    return inside / (over_s - began_s)
