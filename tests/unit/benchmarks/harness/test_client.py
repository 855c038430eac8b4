"""The client with prepared answers: tokens, usage, and every kind of failure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import httpx
import openai
import pytest

from benchmarks.harness.client import RequestResult, TenantClients
from benchmarks.harness.workload import Request

REQUEST = Request(7, "acme", "acme-support", "a fox", 4)


class Prepared(TenantClients):
    """Clients whose server is a function."""

    def __init__(self, handler: Callable[[httpx.Request], httpx.Response]) -> None:
        super().__init__("http://prepared", {"acme": "secret"}, {"temperature": 0.0})
        self._transport = httpx.MockTransport(handler)

    def for_tenant(self, tenant: str) -> openai.AsyncOpenAI:
        http = httpx.AsyncClient(transport=self._transport)
        return openai.AsyncOpenAI(
            base_url="http://prepared/v1", api_key=self._keys[tenant], max_retries=0, http_client=http
        )


def events(*chunks: dict | str) -> httpx.Response:
    lines = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
    body = "".join(f"data: {line}\n\n" for line in lines)
    return httpx.Response(200, text=body, headers={"content-type": "text/event-stream"})


def chunk(finish: str | None = None, usage: dict | None = None, **delta: object) -> dict:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}] if delta or finish else []
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices} | (
        {"usage": usage} if usage else {}
    )


USAGE = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
ANSWER = (
    chunk(role="assistant", content=""),
    chunk(content="a"),
    chunk(content=""),  # half a character is still a token
    chunk(content="b", finish="length"),
    chunk(usage=USAGE),
    "[DONE]",
)


async def send(handler: Callable[[httpx.Request], httpx.Response]) -> RequestResult:
    return await Prepared(handler).send(REQUEST, time.perf_counter())


async def test_a_stream_is_counted_token_by_token() -> None:
    result = await send(lambda _: events(*ANSWER))
    assert (result.error, result.text, len(result.event_times_s)) == (None, "ab", 3)
    assert (result.prompt_tokens, result.output_tokens) == (11, 4)
    assert 0 <= result.sent_s <= result.event_times_s[0] <= result.event_times_s[-1] <= result.end_s
    assert (result.number, result.tenant, result.model) == (7, "acme", "acme-support")


async def test_the_body_and_headers_of_a_request() -> None:
    seen: list[httpx.Request] = []
    await send(lambda request: seen.append(request) or events(*ANSWER))
    body = json.loads(seen[0].content)
    assert seen[0].headers["authorization"] == "Bearer secret"
    assert body["stream_options"] == {"include_usage": True}
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("acme-support", 4, 0)


async def test_a_last_chunk_counts_only_if_it_carries_a_token() -> None:
    for last, pieces in ((chunk(content="", finish="stop"), 2), (chunk(finish="stop"), 1)):
        result = await send(lambda _, last=last: events(*ANSWER[:2], last, chunk(usage=USAGE), "[DONE]"))
        assert (result.error, len(result.event_times_s)) == (None, pieces)


async def test_tokens_with_ids_count_even_without_text() -> None:
    silent = chunk(role="assistant")  # the role alone would not be a token
    silent["choices"][0]["token_ids"] = [5000]
    result = await send(
        lambda _: events(ANSWER[0], silent, chunk(finish="length"), chunk(usage=USAGE), "[DONE]")
    )
    assert (result.error, len(result.event_times_s)) == (None, 1)


async def test_a_stream_without_a_finish_reason_is_cut_off() -> None:
    assert (await send(lambda _: events(*ANSWER[:2]))).error == "cut_off"


async def test_an_error_event_in_a_stream() -> None:
    broken = {"error": {"message": "gone", "type": "server_error", "code": "engine"}}
    result = await send(lambda _: events(*ANSWER[:2], broken, "[DONE]"))
    assert result.error == "stream"
    assert len(result.event_times_s) == 1, "tokens before the error stay"


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
async def test_an_error_status_is_the_error_kind(status: int) -> None:
    answer = httpx.Response(status, json={"error": {"message": "no", "type": "t", "code": "c"}})
    assert (await send(lambda _: answer)).error == f"http_{status}"


async def test_timeouts_and_lost_connections() -> None:
    def slow(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow", request=request)

    def refused(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    assert (await send(slow)).error == "timeout"
    assert (await send(refused)).error == "connection"


async def test_adapters_are_the_models_that_have_a_parent() -> None:
    cards = [
        {"id": "base", "parent": None},
        {"id": "acme-b", "parent": "base"},
        {"id": "acme-a", "parent": "base"},
    ]
    data = [{"object": "model", "created": 1, "owned_by": "x"} | card for card in cards]
    clients = Prepared(lambda _: httpx.Response(200, json={"object": "list", "data": data}))
    assert await clients.models("acme", adapters=True) == ["acme-b", "acme-a"]
    assert await clients.models("acme", adapters=False) == ["base"]


async def test_the_cost_of_a_word_is_measured_on_the_server() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        words = len(json.loads(request.content)["messages"][0]["content"].split())
        tokens = 30 + 2 * words
        usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
        message = {"role": "assistant", "content": "x"}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
        return httpx.Response(200, json=body | {"choices": [choice], "usage": usage})

    cost = await Prepared(answer).word_cost("acme", "m")
    assert (cost.tokens_per_word, cost.template_tokens) == (2, 30)
    assert cost.words_for(130) == 50
    assert cost.words_for(1) == 1
