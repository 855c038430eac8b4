"""One streamed request over the official OpenAI client, and what the client measures of it.

`vllm.benchmarks` has request functions too, but they count a stream that is cut off, or that ends in an error event,
as a success, they keep no HTTP status, and they take the chunk that only names the role as the first token.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import openai

from benchmarks.harness.workload import Request, WordCost, random_words

TIMEOUT_S = 300.0


@dataclass(slots=True)
class RequestResult:
    """What the client measured of one request; times are seconds from the start of the run.

    `event_times_s` has one entry per event that carried tokens: a server may put several tokens into one event.
    """

    number: int
    tenant: str
    model: str
    sent_s: float
    due_s: float
    event_times_s: list[float] = field(default_factory=list)
    end_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    text: str = ""
    error: str | None = None

    @property
    def ttft_s(self) -> float | None:
        """Time to the first token."""
        return self.event_times_s[0] - self.sent_s if self.event_times_s else None

    @property
    def itl_s(self) -> list[float]:
        """Inter-token latencies: the times between events."""
        return [later - earlier for earlier, later in itertools.pairwise(self.event_times_s)]

    @property
    def e2e_s(self) -> float:
        """Time from sending to the last byte."""
        return self.end_s - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first; None for answers of one token."""
        if self.output_tokens < 2 or not self.event_times_s:
            return None
        return (self.event_times_s[-1] - self.event_times_s[0]) / (self.output_tokens - 1)

    def tokens_within(self, begin_s: float, end_s: float) -> float:
        """Tokens that arrived in an interval; each event counts for an equal part of the answer."""
        inside = sum(begin_s <= at_s < end_s for at_s in self.event_times_s)
        return self.output_tokens * inside / len(self.event_times_s) if self.event_times_s else 0.0


class TenantClients:
    """Official clients of one server, one per tenant. The caller closes them with `aclose`.

    Args:
        url: the server, without `/v1`.
        keys: tenant → bearer key; a tenant without one sends "none", for servers that need no key.
        options: fields of every request besides model, messages and length (`temperature`, `extra_body` …).
    """

    def __init__(self, url: str, keys: Mapping[str, str], options: Mapping[str, Any] | None = None) -> None:
        self.url = url.rstrip("/")
        self._keys = dict(keys)
        self._options = dict(options or {})
        self._clients: dict[str, openai.AsyncOpenAI] = {}

    def for_tenant(self, tenant: str) -> openai.AsyncOpenAI:
        """The client of a tenant. It does not retry, because a benchmark counts what fails."""
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

    async def send(self, request: Request, origin_s: float, due_s: float | None = None) -> RequestResult:
        """Send one request and read its stream to the end. Failures are recorded, never raised.

        Args:
            request: what to send.
            origin_s: `time.perf_counter()` at the start of the run.
            due_s: when an open loop planned to send it.
        """
        sent_s = time.perf_counter() - origin_s
        result = RequestResult(
            request.number, request.tenant, request.model, sent_s, sent_s if due_s is None else due_s
        )
        try:
            await self._stream(request, result, origin_s)
        except openai.APIError as error:
            result.error = error_kind(error)
        result.end_s = time.perf_counter() - origin_s
        return result

    async def _stream(self, request: Request, result: RequestResult, origin_s: float) -> None:
        options = self._options
        if request.blend:
            adapters = [{"name": name, "scale": scale} for name, scale in request.blend]
            options = {**options, "extra_body": {**options.get("extra_body", {}), "adapters": adapters}}
        stream = await self.for_tenant(request.tenant).chat.completions.create(
            model=request.model,
            messages=[{"role": "user", "content": request.prompt}],
            max_tokens=request.output_tokens,
            stream=True,
            stream_options={"include_usage": True},
            **options,
        )
        text: list[str] = []
        finished = False
        async for chunk in stream:
            now_s = time.perf_counter() - origin_s
            if chunk.usage is not None:
                result.prompt_tokens = chunk.usage.prompt_tokens
                result.output_tokens = chunk.usage.completion_tokens
            for choice in chunk.choices:
                if carries_tokens(choice):
                    result.event_times_s.append(now_s)
                    text.append(choice.delta.content or "")
                finished = finished or choice.finish_reason is not None
        result.text = "".join(text)
        if not finished:
            result.error = "cut_off"

    async def models(self, tenant: str, *, adapters: bool) -> list[str]:
        """Names of the adapters that the tenant can call, or else of the base models, in the server's order."""
        cards = [card async for card in self.for_tenant(tenant).models.list()]
        return [card.id for card in cards if bool((card.model_extra or {}).get("parent")) == adapters]

    async def word_cost(self, tenant: str, model: str) -> WordCost:
        """Measure the tokens of prompts of 16 and 144 words on the server. Raises: openai.APIError."""
        costs = []
        for words in (16, 144):
            answer = await self.for_tenant(tenant).chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": random_words(random.Random(words), words)}],
                max_tokens=1,
            )
            costs.append(answer.usage.prompt_tokens)
        tokens_per_word = (costs[1] - costs[0]) / 128
        return WordCost(tokens_per_word, costs[0] - 16 * tokens_per_word)


def carries_tokens(choice: Any) -> bool:
    """Whether a chunk's choice carries generated tokens, and not only the role or the finish reason.

    NOTE: tokens may have no text (half a character, the end token), so an empty `content` counts unless the chunk
    names the role. In their last chunk OpenAI's own servers send no `content` at all.
    """
    delta = choice.delta
    if delta.content or delta.tool_calls or (delta.model_extra or {}).get("reasoning"):
        return True
    if (choice.model_extra or {}).get("token_ids"):  # present with `return_token_ids`, even without text
        return True
    return delta.content is not None and delta.role is None


def error_kind(error: openai.APIError) -> str:
    """A short name: `http_429`, `timeout`, `connection`, or `stream` for an error event in a stream."""
    if isinstance(error, openai.APIStatusError):
        return f"http_{error.status_code}"
    if isinstance(error, openai.APITimeoutError):
        return "timeout"
    return "connection" if isinstance(error, openai.APIConnectionError) else "stream"
