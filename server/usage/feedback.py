"""What users say about answers: taken, counted, heard by the canary watch, exported for the trainer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from adapters.models import Feedback, Rating, Version
from adapters.registry.database import utc_now
from server.errors import InvalidRequest, UnknownRequest
from server.request.context import Caller
from server.usage.recent_requests import RecentAnswers


class Book(Protocol):
    """Where it is kept (`adapters.registry.feedback.FeedbackStore`)."""

    async def put(self, said: Feedback) -> None:
        """Keep it."""


class Listener(Protocol):
    """Who else wants to know of a rating: metrics, the canary watch."""

    def rated(self, tenant: str, version: Version | None, rating: Rating) -> None:
        """One rating came in."""


class FeedbackService:
    """Takes feedback about answers that this process has given.

    Args:
        answers: which version answered what.
        book: where feedback is kept.
        listeners: who is told of each rating.
        keeps_messages: whether chats that are sent along are kept.
    """

    def __init__(
        self, answers: RecentAnswers, book: Book, listeners: Sequence[Listener], *, keeps_messages: bool
    ) -> None:
        self._answers = answers
        self._book = book
        self._listeners = listeners
        self.keeps_messages = keeps_messages

    async def take(
        self,
        caller: Caller,
        request_id: str,
        rating: Rating,
        *,
        reason: str = "",
        comment: str = "",
        messages: Sequence[Mapping[str, Any]] | None = None,
    ) -> Feedback:
        """Keep what the caller says about one of its own tenant's requests.

        What an operator says about its own request to a tenant's adapter is kept with that tenant.

        Raises:
            UnknownRequest: no request of this tenant has the id, or it is too long ago.
            InvalidRequest: a chat was sent to a server that keeps none.
        """
        if messages is not None and not self.keeps_messages:
            raise InvalidRequest(
                "This server keeps no chats: leave `messages` out, or let its operator start it with "
                "--keep-feedback-messages.",
                param="messages",
                code="messages_not_kept",
            )
        found = self._answers.find(caller.tenant_name, request_id)
        if found is None:
            raise UnknownRequest(request_id)
        request_id, version = found
        said = Feedback(
            tenant=version.tenant if version else caller.tenant_name,
            request_id=request_id,
            adapter=version.adapter if version else "",
            version=version.number if version else 0,
            rating=rating,
            at=utc_now(),
            reason=reason,
            comment=comment,
            messages=tuple(messages) if messages is not None else None,
        )
        await self._book.put(said)
        for listener in self._listeners:
            listener.rated(said.tenant, version, rating)
        return said


def training_lines(entries: Iterable[Feedback]) -> Iterator[str]:
    """The chats that were sent along, oldest first, as lines of JSON that `loragate train` reads."""
    for said in sorted(entries, key=lambda said: said.at):
        if said.messages is not None:
            row = {"messages": list(said.messages), "request_id": said.request_id, "rating": said.rating}
            yield json.dumps(row, ensure_ascii=False) + "\n"
