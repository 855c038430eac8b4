"""POST /v1/feedback: what a user thinks of an answer."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers

from adapters.models import Rating
from server.request.context import Caller
from server.usage.feedback import FeedbackService

MAX_COMMENT_CHARS = 4000
MAX_MESSAGES = 200


class Message(BaseModel):
    """One turn of a chat, as it was sent to /v1/chat/completions."""

    model_config = ConfigDict(extra="allow")

    role: Annotated[str, Field(pattern="^(system|user|assistant|tool)$")]


class FeedbackBody(BaseModel):
    """What is said. `request_id` is the header `x-request-id` of the answer, or the answer's `id`."""

    model_config = ConfigDict(extra="forbid")

    request_id: Annotated[str, Field(min_length=1, max_length=160)]
    rating: Rating
    reason: Annotated[str, Field(max_length=64)] = ""
    comment: Annotated[str, Field(max_length=MAX_COMMENT_CHARS)] = ""
    messages: Annotated[list[Message], Field(min_length=2, max_length=MAX_MESSAGES)] | None = None
    """A chat to learn from; its last turn is the answer as it should be."""


class FeedbackReceipt(BaseModel):
    """What was stored, and for which version. `adapter` "" and `version` 0 are the base model."""

    object: Literal["feedback"] = "feedback"
    request_id: str
    adapter: str
    version: int
    rating: Rating
    messages_kept: bool


class Service(Protocol):
    """What this route needs of the composed server."""

    feedback: FeedbackService

    async def identify(self, headers: Headers) -> Caller:
        """Who calls. Raises: Unauthenticated."""


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["feedback"])

    @routes.post("/v1/feedback", status_code=201)
    async def give_feedback(body: FeedbackBody, request: Request) -> FeedbackReceipt:
        """Rate one answer; said again about the same request, it takes the place of what was said."""
        caller = await service.identify(request.headers)
        chat = None if body.messages is None else [message.model_dump() for message in body.messages]
        said = await service.feedback.take(
            caller,
            body.request_id,
            body.rating,
            reason=body.reason,
            comment=body.comment,
            messages=chat,
        )
        return FeedbackReceipt(
            request_id=said.request_id,
            adapter=said.adapter,
            version=said.version,
            rating=said.rating,
            messages_kept=said.messages is not None,
        )

    return routes
