"""POST /v1/feedback: a user's rating of an answer."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from adapters.models import Rating
from server.auth.authenticator import Authenticator
from server.usage.feedback import FeedbackService

MAX_COMMENT_CHARS = 4000
MAX_MESSAGES = 200


class Message(BaseModel):
    """One message of a chat, as for /v1/chat/completions."""

    model_config = ConfigDict(extra="allow")

    role: Annotated[str, Field(pattern="^(system|user|assistant|tool)$")]


class FeedbackBody(BaseModel):
    """A rating. `request_id` is the header `x-request-id` of the answer, or the answer's `id`."""

    model_config = ConfigDict(extra="forbid")

    request_id: Annotated[str, Field(min_length=1, max_length=160)]
    rating: Rating
    reason: Annotated[str, Field(max_length=64)] = ""
    comment: Annotated[str, Field(max_length=MAX_COMMENT_CHARS)] = ""
    messages: Annotated[list[Message], Field(min_length=2, max_length=MAX_MESSAGES)] | None = None
    """A chat to train on; its last message is the answer as it should be."""


class FeedbackReceipt(BaseModel):
    """What was stored, and for which version. `adapter` "" and `version` 0 are the base model."""

    object: Literal["feedback"] = "feedback"
    request_id: str
    adapter: str
    version: int
    rating: Rating
    messages_kept: bool


def router(feedback: FeedbackService, authenticator: Authenticator) -> APIRouter:
    """The route /v1/feedback, by which clients send feedback."""
    routes = APIRouter(tags=["feedback"])

    @routes.post("/v1/feedback", status_code=201)
    async def give_feedback(body: FeedbackBody, request: Request) -> FeedbackReceipt:
        """Rate one answer; a second rating of the same request replaces the first."""
        caller = await authenticator.authenticate(request.headers)
        messages = None if body.messages is None else [message.model_dump() for message in body.messages]
        stored = await feedback.submit(
            caller,
            body.request_id,
            body.rating,
            reason=body.reason,
            comment=body.comment,
            messages=messages,
        )
        return FeedbackReceipt(
            request_id=stored.request_id,
            adapter=stored.adapter,
            version=stored.version,
            rating=stored.rating,
            messages_kept=stored.messages is not None,
        )

    return routes
