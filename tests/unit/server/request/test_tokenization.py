"""/tokenize and /detokenize take their tenant's rates and places, and give back what was only estimated."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.models import Key, Role, Tenant
from adapters.tenant_settings import TenantSettings
from server.admission import Admission
from server.admission.errors import RateLimited, TooManyConcurrent
from server.config.settings import Settings
from server.errors import ModelNotFound
from server.fairness.shares import Capacity
from server.request.access_log import AccessRecord
from server.request.body_memory import BodyMemory
from server.request.context import Caller
from server.request.request_service import once
from server.request.sampling import SamplingResolver
from server.request.tokenization import TokenizationService, TokenRoute

KEY = Key("k", "acme", Role.INFERENCE, "lg-", "0", None, None, None, datetime.now(UTC))


class Parts:
    """Handlers, workers and router; three tokens are in everything."""

    def __init__(self) -> None:
        self.worked: list[str] = []
        self.go = asyncio.Event()
        self.go.set()
        self.failure: Exception | None = None
        self.size_bytes: int | None = None

    async def resolve(self, caller: Caller, model: object) -> None:
        if model != "m":
            raise ModelNotFound("no such model")

    async def _answer(self, how: str) -> Any:
        self.worked.append(how)
        await self.go.wait()
        if self.failure:
            raise self.failure

    async def tokenize(self, *arguments: Any) -> Any:
        if isinstance(arguments[0], str):  # a worker's: tenant, raw, limits
            await self._answer("worker")
            return "m", b"{}", 3
        self.size_bytes = arguments[0].size_bytes
        await self._answer("here")
        return SimpleNamespace(tokens=[1, 2, 3], model_dump_json=lambda: '{"count":3}')

    async def count_tokens(self, *arguments: Any) -> Any:
        await self._answer("here")
        return SimpleNamespace(input_tokens=3, model_dump_json=lambda: '{"input_tokens":3}')

    async def detokenize(self, *arguments: Any) -> Any:
        await self._answer("here")
        return SimpleNamespace(model_dump_json=lambda: '{"prompt":"abc"}')


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def service(parts: Parts) -> TokenizationService:
    own: Any = parts
    sampling = SamplingResolver.from_settings(Settings(demo=True), {})
    admission = Admission(Capacity(kv_blocks=1, block_size_tokens=1, max_num_seqs=4))
    return TokenizationService(own, sampling, admission, lambda: own, lambda: own, BodyMemory(1 << 20), once)


def caller(**limits: Any) -> Caller:
    return Caller(KEY, Tenant("acme", settings=TenantSettings(**limits)))


def record() -> AccessRecord:
    return AccessRecord("r", "POST", "/tokenize")


SHORT = b'{"prompt": "abc"}'
LONG = json.dumps({"prompt": "word " * 20_000}).encode()


async def test_a_short_text_is_tokenized_here_and_a_long_one_in_a_worker(
    service: TokenizationService, parts: Parts
) -> None:
    noted = record()
    assert await service.answer(TokenRoute.TOKENIZE, caller(), SHORT, noted) == b'{"count":3}'
    assert parts.size_bytes == len(SHORT)  # by which the renderer knows that it is short
    assert await service.answer(TokenRoute.TOKENIZE, caller(), LONG, record()) == b"{}"
    tokens = b'{"tokens": [1, 2, 3], "model": "m"}'
    assert await service.answer(TokenRoute.DETOKENIZE, caller(), tokens, record()) == b'{"prompt":"abc"}'
    assert parts.worked == ["here", "worker", "here"] and noted.prompt_tokens == 3


async def test_a_count_of_tokens_is_admitted_like_the_others(service: TokenizationService) -> None:
    noted, asks = record(), caller(rpm=1)
    assert await service.answer(TokenRoute.COUNT, asks, b'{"messages": []}', noted) == b'{"input_tokens":3}'
    assert noted.prompt_tokens == 3
    with pytest.raises(RateLimited):
        await service.answer(TokenRoute.COUNT, asks, b'{"messages": []}', record())


async def test_requests_count_in_rpm(service: TokenizationService, parts: Parts) -> None:
    for _ in range(2):
        await service.answer(TokenRoute.TOKENIZE, caller(rpm=2), SHORT, record())
    with pytest.raises(RateLimited):
        await service.answer(TokenRoute.TOKENIZE, caller(rpm=2), SHORT, record())
    assert (
        len(parts.worked) == 2
        and service.rate_headers(caller(rpm=2))["x-ratelimit-remaining-requests"] == "0"
    )


async def test_tokens_are_reserved_by_bytes_and_settled_by_count(
    service: TokenizationService, parts: Parts
) -> None:
    asks = caller(tpm=30_000)
    parts.go.clear()
    first = asyncio.create_task(service.answer(TokenRoute.TOKENIZE, asks, LONG, record()))
    await asyncio.sleep(0)
    with pytest.raises(RateLimited) as refused:
        await service.answer(TokenRoute.TOKENIZE, asks, LONG, record())
    assert refused.value.limit == "tpm"
    parts.go.set()
    await first
    assert service.rate_headers(asks)["x-ratelimit-remaining-tokens"] == "29997"
    await service.answer(TokenRoute.TOKENIZE, asks, LONG, record())


async def test_a_text_above_tpm_takes_a_whole_minute_of_it(service: TokenizationService) -> None:
    await service.answer(TokenRoute.TOKENIZE, caller(tpm=100), LONG, record())
    with pytest.raises(RateLimited):
        await service.answer(TokenRoute.TOKENIZE, caller(tpm=100), LONG, record())


async def test_it_takes_a_place_and_gives_it_back_when_it_is_cancelled(
    service: TokenizationService, parts: Parts
) -> None:
    parts.go.clear()
    running = asyncio.create_task(
        service.answer(TokenRoute.TOKENIZE, caller(max_concurrency=1), SHORT, record())
    )
    await asyncio.sleep(0)
    with pytest.raises(TooManyConcurrent):
        await service.answer(TokenRoute.TOKENIZE, caller(max_concurrency=1), SHORT, record())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    parts.go.set()
    await service.answer(TokenRoute.TOKENIZE, caller(max_concurrency=1), SHORT, record())


async def test_work_that_ended_early_counts_as_estimated(service: TokenizationService, parts: Parts) -> None:
    parts.failure = ModelNotFound("no")
    with pytest.raises(ModelNotFound):
        await service.answer(TokenRoute.TOKENIZE, caller(tpm=30_000), LONG, record())
    assert service.rate_headers(caller(tpm=30_000))["x-ratelimit-remaining-tokens"] == str(30_000 - 25_004)


async def test_it_counts_in_no_token_budget(service: TokenizationService) -> None:
    asks = caller(token_budget=10, budget_period="day")
    for _ in range(5):
        await service.answer(TokenRoute.TOKENIZE, asks, SHORT, record())


async def test_a_model_of_somebody_else_is_not_found(service: TokenizationService) -> None:
    noted = record()
    with pytest.raises(ModelNotFound):
        await service.answer(TokenRoute.TOKENIZE, caller(), b'{"model": "other", "prompt": "x"}', noted)
    assert noted.model == "other"
