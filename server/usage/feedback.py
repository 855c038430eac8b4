"""Users' feedback about answers: stored, counted, passed to the canary rollback, exported for the trainer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from adapters.models import Feedback, Rating, Version
from adapters.registry.database import utc_now
from server.errors import InvalidRequest, UnknownRequest
from server.request.context import Caller
from server.usage.shared_answers import SharedAnswers

_NOT_KEPT = (
    "This server does not store messages: omit `messages`, or ask the operator to start the server with "
    "--keep-feedback-messages."
)


_NO_MESSAGES = "`rejected` needs `messages`: the chat whose last message is the better answer."
#: Where the last message of a stored chat has the answer that it replaces.
_REJECTED = "rejected"


class FeedbackService:
    """Accepts feedback about recent answers.

    Args:
        answers: which version answered which request.
        store: writes feedback to the registry.
        listeners: called with tenant, version (None: the base model) and rating.
        keeps_messages: whether the messages in feedback are stored.
    """

    def __init__(
        self,
        answers: SharedAnswers,
        store: Callable[[Feedback], Awaitable[None]],
        listeners: Sequence[Callable[[str, Version | None, Rating], None]],
        *,
        keeps_messages: bool,
    ) -> None:
        self._answers = answers
        self._store = store
        self._listeners = listeners
        self.keeps_messages = keeps_messages

    async def submit(
        self,
        caller: Caller,
        request_id: str,
        rating: Rating,
        *,
        reason: str = "",
        comment: str = "",
        messages: Sequence[Mapping[str, Any]] | None = None,
        rejected: str | None = None,
    ) -> Feedback:
        """Store the caller's feedback about a request of its own tenant.

        An operator's feedback about its own request to a tenant's adapter is stored for that tenant.

        Raises:
            UnknownRequest: no recent request of this tenant has the id.
            InvalidRequest: this server does not store the messages that were sent, or `rejected` has none.
            RegistryUnavailable: the database does not answer.
        """
        self._check(messages, rejected)
        found = await self._answers.find(caller.tenant_name, request_id)
        if found is None:
            raise UnknownRequest(request_id)
        request_id, version = found
        feedback = Feedback(
            tenant=version.tenant if version else caller.tenant_name,
            request_id=request_id,
            adapter=version.adapter if version else "",
            version=version.number if version else 0,
            rating=rating,
            at=utc_now(),
            reason=reason,
            comment=comment,
            messages=_with_rejected(messages, rejected) if messages is not None else None,
        )
        await self._store(feedback)
        for listener in self._listeners:
            listener(feedback.tenant, version, rating)
        return feedback

    def _check(self, messages: Sequence[Mapping[str, Any]] | None, rejected: str | None) -> None:
        if messages is not None and not self.keeps_messages:
            raise InvalidRequest(_NOT_KEPT, param="messages", code="messages_not_kept")
        if rejected is not None and messages is None:
            raise InvalidRequest(_NO_MESSAGES, param="rejected", code="messages_missing")


def training_lines(entries: Iterable[Feedback]) -> Iterator[str]:
    """The stored messages, oldest first, as lines of JSON that `loragate train` reads."""
    for entry in sorted(entries, key=lambda entry: entry.at):
        if entry.messages is not None:
            *earlier, last = entry.messages
            answer = {name: value for name, value in last.items() if name != _REJECTED}
            rejected = {_REJECTED: last[_REJECTED]} if _REJECTED in last else {}
            row = {"messages": [*earlier, answer], **rejected}
            row |= {"request_id": entry.request_id, "rating": entry.rating}
            yield json.dumps(row, ensure_ascii=False) + "\n"


def _with_rejected(
    messages: Sequence[Mapping[str, Any]], rejected: str | None
) -> tuple[Mapping[str, Any], ...]:
    """``messages``, whose last one remembers the answer that it replaces."""
    *earlier, last = messages
    own = {name: value for name, value in last.items() if name != _REJECTED}
    return (*earlier, own if rejected is None else own | {_REJECTED: rejected})
