"""POST /v1/feedback on a server that keeps chats: what is sent along is what the trainer gets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
from fastapi import FastAPI
from starlette.datastructures import Headers

from adapters.models import Feedback, Key, Role, Tenant
from server.api import errors, feedback
from server.request.context import Caller
from server.usage.feedback import FeedbackService, training_lines
from server.usage.recent_requests import RecentAnswers
from server.usage.shared_answers import SharedAnswers

NOW = datetime.now(UTC)
CALL = {"id": "c1", "type": "function", "function": {"name": "track", "arguments": '{"order": 7}'}}
CHAT = [
    {"role": "user", "content": "Where is order 7?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "shipped"},
    {"role": "assistant", "content": "It was shipped."},
]


class Service:
    """Acme calls; one answer can be rated; what is kept stays in a list."""

    def __init__(self) -> None:
        self.kept: list[Feedback] = []
        answers = SharedAnswers(RecentAnswers(), None)
        answers.note("acme", "r1", None)
        self.feedback = FeedbackService(answers, self.put, [], keeps_messages=True)

    async def put(self, said: Feedback) -> None:
        self.kept.append(said)

    async def authenticate(self, headers: Headers) -> Caller:
        return Caller(Key("k", "acme", Role.INFERENCE, "lg-", "0", None, None, None, NOW), Tenant("acme"))


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(feedback.router(service.feedback, service))
    errors.install(app, service.authenticate)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def test_a_chat_is_kept_as_it_was_sent(client: httpx.AsyncClient, service: Service) -> None:
    body = {"request_id": "r1", "rating": "up", "messages": CHAT}
    taken = await client.post("/v1/feedback", json=body)
    assert taken.status_code == 201 and taken.json()["messages_kept"] is True
    (line,) = training_lines(service.kept)
    assert json.loads(line)["messages"] == CHAT


@pytest.mark.parametrize(
    "messages", [[], CHAT[:1], [{"role": "robot"}] * 2, [{"role": "user"}] * 201, "chat"]
)
async def test_what_is_no_chat_is_refused(
    client: httpx.AsyncClient, service: Service, messages: object
) -> None:
    body = {"request_id": "r1", "rating": "up", "messages": messages}
    refused = await client.post("/v1/feedback", json=body)
    assert refused.status_code == 400 and refused.json()["error"]["param"].startswith("messages")
    assert service.kept == []
