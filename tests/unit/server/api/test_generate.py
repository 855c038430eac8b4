"""The generating routes, over a request service whose answers are set by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from adapters.errors import ResidencyBusy
from adapters.models import Key, Role, Tenant
from adapters.tenant_settings import TenantSettings
from sampling.endpoints import Endpoint
from sampling.errors import LimitExceeded
from sampling.resolution import Resolved
from server.admission.errors import RateLimited
from server.api import responses
from server.api.generate import GenerateRoute
from server.api.middleware.request_middleware import RequestMiddleware
from server.errors import EngineUnavailable, ModelNotFound
from server.observability.tracing import Tracing
from server.request.access_log import AccessRecord
from server.request.body import Body, parse
from server.request.body_memory import BodyMemory
from server.request.context import Answer, Caller, JsonAnswer, RequestContext, StreamAnswer, Target
from server.usage.records.recorder import Recorder

KEY = Key("k", "acme", Role.INFERENCE, "lg-", "0", None, None, None, datetime.now(UTC))


@dataclass
class FakeService:
    """Stands for all parts of the route: answers with `answer`; `held` counts what is held at the moment."""

    answer: Any = None
    failure: Exception | None = None
    held: int = 0
    observed: list[int] = field(default_factory=list)
    finished_: list[int] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    clamped: tuple[str, ...] = ()
    refusals: list[tuple[str, str]] = field(default_factory=list)
    log_prompts: bool = False
    memory: BodyMemory = field(default_factory=lambda: BodyMemory(1000))

    def route(self) -> GenerateRoute:
        me: Any = self
        return GenerateRoute(
            Endpoint.CHAT,
            authenticator=me,
            readiness=me,
            requests=me,
            observer=me,
            tracing=Tracing(),
            log_prompts=self.log_prompts,
            records=Recorder(None),
        )

    def refused(self, tenant: str, reason: str) -> None:
        self.refusals.append((tenant, reason))

    async def authenticate(self, headers: Any) -> Caller:
        return Caller(KEY, Tenant("acme"))

    def require_ready(self) -> None:
        """It is."""

    async def read(self, caller: Caller, endpoint: Endpoint, raw: bytes) -> Body:
        return Body(parse(raw))

    async def prepare(
        self, caller: Caller, endpoint: Endpoint, body: Body, headers: Any, request_id: str
    ) -> RequestContext:
        if body.fields.get("model") == "none":
            raise ModelNotFound("no such model")
        sampling = Resolved(dict(body.fields), {}, self.clamped)
        return RequestContext(
            request_id, endpoint, caller, Target("m", None), sampling, TenantSettings(), "s"
        )

    @contextlib.asynccontextmanager
    async def serve(self, context: RequestContext, headers: Any) -> AsyncIterator[Answer]:
        self.held += 1
        try:
            if self.failure:
                raise self.failure
            yield self.answer
        finally:
            self.held -= 1

    def rate_headers(self, context: RequestContext) -> dict[str, str]:
        return {"x-ratelimit-limit-requests": "9"}

    def answering(self, *contexts: RequestContext) -> None:
        self.answered += [context.request_id for context in contexts]

    def finished(self, record: AccessRecord, *contexts: RequestContext) -> None:
        self.finished_.append(record.status or 200)
        self.observed += [record.status or 200 for _ in contexts]


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[httpx.AsyncClient]:
    class Current:
        """The route, as the service is at the moment."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await service.route()(scope, receive, send)

    route = Route("/v1/chat/completions", Current(), methods=["POST"])
    app = RequestMiddleware(Starlette(routes=[route]), max_body_bytes=1000)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://s") as client:
        yield client


async def events(*parts: str | Exception) -> AsyncIterator[str]:
    for part in parts:
        if isinstance(part, Exception):
            raise part
        yield part


async def post(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=body)


async def test_a_whole_answer(client: httpx.AsyncClient, service: FakeService) -> None:
    service.answer, service.clamped = JsonAnswer({"id": 1}), ("max_tokens=5",)
    response = await post(client)
    assert response.json() == {"id": 1}
    assert response.headers["x-ratelimit-limit-requests"] == "9"
    assert response.headers["x-loragate-clamped"] == "max_tokens=5"
    assert service.observed == [200] and service.held == 0


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_answer_is_remembered_before_its_client_has_it(
    client: httpx.AsyncClient, service: FakeService, is_stream: bool
) -> None:
    at_first_byte: list[int] = []

    def part() -> str:
        at_first_byte.append(len(service.answered))
        return "data: 1\n\n"

    async def parts() -> AsyncIterator[str]:
        yield part()

    pieces = (part() for _ in range(1))
    service.answer = StreamAnswer(parts()) if is_stream else JsonAnswer({}, pieces=pieces)
    response = await post(client, stream=is_stream)
    assert at_first_byte == [1] and service.answered == [response.headers["x-request-id"]]


async def test_what_nobody_reads_is_told(client: httpx.AsyncClient, service: FakeService) -> None:
    for answer in (
        JsonAnswer({}, ("temprature", "a\r\nb: c", "x" * 99)),
        StreamAnswer(events("data: 1\n\n")),
    ):
        service.answer = answer
        response = await post(client)
        told = response.headers.get("x-loragate-ignored")
        assert told == ("temprature, 2 more" if answer.ignored else None)
    service.answer = JsonAnswer({}, tuple(f"f{n}" for n in range(30)))
    assert (await post(client)).headers["x-loragate-ignored"].endswith("f19, 10 more")


async def test_a_whole_answer_in_pieces(client: httpx.AsyncClient, service: FakeService) -> None:
    pieces = ['{"text":["', *(f"ü{number}" * 1000 for number in range(100)), '"]}']
    service.answer, service.clamped = JsonAnswer({}, pieces=pieces), ("max_tokens=5",)
    response = await post(client)
    assert response.text == "".join(pieces)
    assert response.headers["content-length"] == str(len(response.content))
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-loragate-clamped"] == "max_tokens=5" and service.observed == [200]


async def test_a_stream_of_many_events_pauses(client: httpx.AsyncClient, service: FakeService) -> None:
    """The events of 128 choices come in one step of the engine, and sending them need not wait for anything."""
    turns = [0]

    async def count() -> None:
        while True:
            await asyncio.sleep(0)
            turns[0] += 1

    seen: list[int] = []

    async def many() -> AsyncIterator[str]:
        for _ in range(128):
            seen.append(turns[0])
            yield f"data: {'x' * 2000}\n\n"

    service.answer = StreamAnswer(many())
    counting = asyncio.create_task(count())
    await post(client, stream=True)
    counting.cancel()
    assert seen[-1] - seen[0] >= 128 * 2000 // (17 << 10)


async def test_a_stream(client: httpx.AsyncClient, service: FakeService) -> None:
    service.answer = StreamAnswer(events("data: 1\n\n", "data: [DONE]\n\n"))
    response = await post(client, stream=True)
    assert response.text == "data: 1\n\ndata: [DONE]\n\n"
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    assert service.held == 0


async def test_a_silent_stream_shows_signs_of_life(
    client: httpx.AsyncClient, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that writes a long tool call sends nothing for minutes; a stream that has not begun may still fail."""
    monkeypatch.setattr(responses, "SILENCE_S", 0.02)

    async def slow() -> AsyncIterator[str]:
        await asyncio.sleep(0.2)
        yield "data: 1\n\n"
        await asyncio.sleep(0.2)
        yield "data: [DONE]\n\n"

    service.answer = StreamAnswer(slow())
    parts = (await post(client, stream=True)).text.removesuffix("\n\n").split("\n\n")
    assert parts[0] == "data: 1" and parts[-1] == "data: [DONE]"
    assert 2 <= len(parts[1:-1]) <= 10 and set(parts[1:-1]) == {":"}


VLLM_ERROR = 'data: {"error": {"message": "boom", "type": "t", "param": null, "code": 500}}\n\n'


@pytest.mark.parametrize("first", [VLLM_ERROR, EngineUnavailable("gone")])
async def test_a_failure_before_the_first_event_has_its_own_status(
    client: httpx.AsyncClient, service: FakeService, first: str | Exception
) -> None:
    service.answer = StreamAnswer(events(first, "data: [DONE]\n\n"))
    response = await post(client, stream=True)
    assert response.status_code == (500 if first == VLLM_ERROR else 503)
    assert isinstance(response.json()["error"]["code"], str)


@pytest.mark.parametrize("later", [VLLM_ERROR, EngineUnavailable("gone")])
async def test_a_failure_in_mid_stream_is_an_event(
    client: httpx.AsyncClient, service: FakeService, later: str | Exception
) -> None:
    service.answer = StreamAnswer(events("data: 1\n\n", later, "data: [DONE]\n\n"))
    response = await post(client, stream=True)
    parts = response.text.strip().split("\n\n")
    assert parts[0] == "data: 1" and parts[-1] == "data: [DONE]" and len(parts) == 3
    code = json.loads(parts[1].removeprefix("data: "))["error"]["code"]
    assert code == ("internal_error" if later == VLLM_ERROR else "engine_unavailable")


async def test_refusals(client: httpx.AsyncClient, service: FakeService) -> None:
    assert (await post(client, model="none")).status_code == 404
    service.failure = ResidencyBusy(2, 1.0, 500.0)
    busy = await post(client)
    assert busy.status_code == 503 and busy.headers["retry-after"] == "120"
    assert busy.headers["x-ratelimit-limit-requests"] == "9"
    assert service.observed == [503] and service.held == 0
    assert service.refusals == [("acme", "model_not_found"), ("acme", "adapter_slots_busy")]
    assert service.finished_ == [404, 503]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (RateLimited("slow down", limit="rpm", asked=1, used=9, allowed=9, retry_after_s=1), "rpm"),
        (LimitExceeded("n", 9, 4), "invalid_value"),  # its `limit` is a number, no name
    ],
)
async def test_a_refusal_is_counted_under_a_name(
    client: httpx.AsyncClient, service: FakeService, failure: Exception, reason: str
) -> None:
    service.failure = failure
    await post(client)
    assert service.refusals == [("acme", reason)]


async def test_what_was_asked_is_logged_only_where_the_operator_wants_it(
    client: httpx.AsyncClient, service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service.answer = JsonAnswer({})
    with caplog.at_level("INFO", "loragate.access"):
        await post(client, messages=[{"role": "user", "content": "a secret"}])
        assert not any("a secret" in str(vars(record)) for record in caplog.records)
        service.log_prompts = True
        await post(client, messages=[{"role": "user", "content": "a secret"}])
    (told,) = [record for record in caplog.records if hasattr(record, "prompt")]
    assert told.prompt == {"messages": [{"role": "user", "content": "a secret"}]}  # type: ignore[attr-defined]


async def test_an_unforeseen_error_is_one_500_without_details(
    client: httpx.AsyncClient, service: FakeService
) -> None:
    service.failure = ZeroDivisionError("secret detail")
    response = await post(client)
    assert response.status_code == 500 and "secret" not in response.text
    assert response.headers["x-request-id"] and service.held == 0
    assert service.observed == [500]


async def test_body_cap(client: httpx.AsyncClient, service: FakeService) -> None:
    response = await post(client, messages="x" * 2000)
    assert response.status_code == 413 and "1000" in response.json()["error"]["message"]


async def test_the_end_of_the_server_cuts_a_stream_with_an_event(service: FakeService) -> None:
    forever = asyncio.Event()

    async def endless() -> AsyncIterator[str]:
        yield "data: 1\n\n"
        await forever.wait()

    service.answer = StreamAnswer(endless())
    sent = await _drive(service, after_first_event=service.ending.set)
    assert b'"draining"' in sent[-2]["body"] and sent[-1]["more_body"] is False
    assert service.held == 0


async def test_a_client_that_leaves_cancels_the_work(service: FakeService) -> None:
    cancelled = asyncio.Event()

    async def endless() -> AsyncIterator[str]:
        try:
            yield "data: 1\n\n"
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    service.answer = StreamAnswer(endless())
    gone = asyncio.Event()
    await _drive(service, after_first_event=gone.set, gone=gone)
    assert cancelled.is_set() and service.held == 0 and service.observed == [499]


async def _drive(
    service: FakeService, *, after_first_event: Any, gone: asyncio.Event | None = None
) -> list[dict[str, Any]]:
    """Call the route as a server would, with a client that can leave."""
    sent: list[dict[str, Any]] = []
    body = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if body:
            return body.pop()
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if len(sent) == 2:
            after_first_event()

    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [], "query_string": b"",
        "state": {"max_body_bytes": 1000, "request_id": "r", "record": AccessRecord("r", "POST", "/v1/x")},
    }  # fmt: skip
    async with asyncio.timeout(5):
        await service.route()(scope, receive, send)
    return sent


async def test_a_body_that_does_not_come_is_not_waited_for(service: FakeService) -> None:
    app = RequestMiddleware(service.route(), max_body_bytes=1000, read_timeout_s=0.05)
    sent: list[dict[str, Any]] = []
    parts = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> dict[str, Any]:
        return parts.pop() if parts else await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": [],
        "query_string": b"",
    }
    await asyncio.wait_for(app(scope, receive, send), 5)  # type: ignore[arg-type]
    assert sent[0]["status"] == 408 and b'"body_too_slow"' in sent[1]["body"]
    assert (b"connection", b"close") in sent[0]["headers"]
    assert service.refusals == [("acme", "body_too_slow")]
