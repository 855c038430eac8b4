"""One streamed request over the official OpenAI client, and what was seen of it."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import openai

from benchmarks.harness.workload import Request, WordRate, sentence

TIMEOUT_S = 300.0


@dataclass(slots=True)
class Sample:
    """What a client saw of one request; times are seconds from the start of the run.

    `pieces_s` has one entry per event that brought tokens: a server may put several tokens into one event.
    """

    number: int
    tenant: str
    model: str
    sent_s: float
    due_s: float
    pieces_s: list[float] = field(default_factory=list)
    end_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    text: str = ""
    error: str | None = None

    @property
    def ttft_s(self) -> float | None:
        """Time to the first token."""
        return self.pieces_s[0] - self.sent_s if self.pieces_s else None

    @property
    def gaps_s(self) -> list[float]:
        """Times between events."""
        return [b - a for a, b in zip(self.pieces_s, self.pieces_s[1:], strict=False)]

    @property
    def e2e_s(self) -> float:
        """Time from sending to the last byte."""
        return self.end_s - self.sent_s

    @property
    def per_token_s(self) -> float | None:
        """Mean time per token after the first; None for answers of one."""
        if self.output_tokens < 2 or not self.pieces_s:
            return None
        return (self.pieces_s[-1] - self.pieces_s[0]) / (self.output_tokens - 1)

    def tokens_within(self, begin_s: float, end_s: float) -> float:
        """Tokens that arrived in a span of time, each event standing for an equal part of the answer."""
        inside = sum(begin_s <= at_s < end_s for at_s in self.pieces_s)
        return self.output_tokens * inside / len(self.pieces_s) if self.pieces_s else 0.0


class Clients:
    """Official clients of one server, one per tenant; `aclose` them.

    Args:
        url: the server, without `/v1`.
        keys: tenant → bearer key; a tenant without one sends "none", for servers that ask for none.
        options: what every request carries beside model, messages and length (`temperature`, `extra_body` …).
    """

    def __init__(self, url: str, keys: Mapping[str, str], options: Mapping[str, Any] | None = None) -> None:
        self.url = url.rstrip("/")
        self._keys = dict(keys)
        self._options = dict(options or {})
        self._clients: dict[str, openai.AsyncOpenAI] = {}

    def of(self, tenant: str) -> openai.AsyncOpenAI:
        """A tenant's client, without retries: a benchmark counts what fails."""
        if tenant not in self._clients:
            self._clients[tenant] = openai.AsyncOpenAI(
                base_url=f"{self.url}/v1",
                api_key=self._keys.get(tenant, "none"),
                max_retries=0,
                timeout=TIMEOUT_S,
            )
        return self._clients[tenant]

    async def aclose(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.close()

    async def send(self, request: Request, origin_s: float, due_s: float | None = None) -> Sample:
        """Send one request and read its stream to the end; failures are counted, never raised.

        Args:
            request: what to send.
            origin_s: `time.perf_counter()` at the start of the run.
            due_s: when an open loop wanted it sent.
        """
        sent_s = time.perf_counter() - origin_s
        sample = Sample(
            request.number, request.tenant, request.model, sent_s, sent_s if due_s is None else due_s
        )
        try:
            await self._stream(request, sample, origin_s)
        except openai.APIError as error:
            sample.error = error_kind(error)
        sample.end_s = time.perf_counter() - origin_s
        return sample

    async def _stream(self, request: Request, sample: Sample, origin_s: float) -> None:
        stream = await self.of(request.tenant).chat.completions.create(
            model=request.model,
            messages=[{"role": "user", "content": request.prompt}],
            max_tokens=request.output_tokens,
            stream=True,
            stream_options={"include_usage": True},
            **self._options,
        )
        text: list[str] = []
        finished = False
        async for chunk in stream:
            now_s = time.perf_counter() - origin_s
            if chunk.usage is not None:
                sample.prompt_tokens = chunk.usage.prompt_tokens
                sample.output_tokens = chunk.usage.completion_tokens
            for choice in chunk.choices:
                if brings_tokens(choice):
                    sample.pieces_s.append(now_s)
                    text.append(choice.delta.content or "")
                finished = finished or choice.finish_reason is not None
        sample.text = "".join(text)
        if not finished:
            sample.error = "cut_off"

    async def models(self, tenant: str) -> list[str]:
        """Names of the adapters that the tenant sees, in the server's order; the base has no parent."""
        cards = [card async for card in self.of(tenant).models.list()]
        return [card.id for card in cards if (card.model_extra or {}).get("parent")]

    async def base_model(self, tenant: str) -> str:
        """Name of the base model."""
        cards = [card async for card in self.of(tenant).models.list()]
        return str(next(card.id for card in cards if not (card.model_extra or {}).get("parent")))

    async def word_rate(self, tenant: str, model: str) -> WordRate:
        """Ask the server what prompts of 16 and 144 words cost. Raises: openai.APIError."""
        costs = []
        for words in (16, 144):
            answer = await self.of(tenant).chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": sentence(random.Random(words), words)}],
                max_tokens=1,
            )
            costs.append(answer.usage.prompt_tokens)
        per_word = (costs[1] - costs[0]) / 128
        return WordRate(per_word, costs[0] - 16 * per_word)


def brings_tokens(choice: Any) -> bool:
    """Whether a chunk's choice stands for generated tokens, and not only for the role or the end.

    NOTE: tokens may have no text (half a character, the end token), so an empty `content` counts where no role is
    named; at the end OpenAI's own servers send no `content` at all.
    """
    delta = choice.delta
    if delta.content or delta.tool_calls or (delta.model_extra or {}).get("reasoning"):
        return True
    if (choice.model_extra or {}).get("token_ids"):  # asked for by `return_token_ids`, text or no text
        return True
    return delta.content is not None and delta.role is None


def error_kind(error: openai.APIError) -> str:
    """A short name: `http_429`, `timeout`, `connection`, or `stream` for an error in mid-stream."""
    if isinstance(error, openai.APIStatusError):
        return f"http_{error.status_code}"
    if isinstance(error, openai.APITimeoutError):
        return "timeout"
    return "connection" if isinstance(error, openai.APIConnectionError) else "stream"
