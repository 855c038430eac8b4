"""What a worker process does with one exchange: one line of JSON, redacted, that the trainer reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.request.body import parse
from server.usage.records.chat_rows import UNSUPPORTED, NoRow, row_of
from server.usage.records.redaction import Redactor
from server.usage.records.streamed_answers import joined


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its whole answer."""

    endpoint: str
    request: bytes
    answer: Mapping[str, Any] | str
    """As an object, as JSON, or, with `streamed`, as server-sent events."""
    streamed: bool
    patterns: tuple[str, ...]
    """The tenant's own."""
    facts: Mapping[str, Any]
    """What the line tells beside the chat: the request's id, the model, the time."""


def prepare() -> None:
    """Import what the first exchange needs."""
    import adapters.training.data.reader  # noqa: F401


def render(exchange: Exchange) -> bytes:
    """The line of an exchange, with its end.

    Raises:
        NoRow: the answer is not complete, or the trainer could not read the row.
        InvalidRequest: the request is no JSON; the handler has read it as such.
    """
    body = parse(exchange.request)
    row = row_of(exchange.endpoint, body, _answer(exchange))
    redactor = Redactor(exchange.patterns)
    for message in row.messages:
        message["content"] = redactor.text(message["content"])
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = redactor.arguments(call["function"]["arguments"])
    fields: dict[str, Any] = {"messages": row.messages}
    if row.tools:
        fields["tools"] = redactor.value(row.tools)
    _check(fields)
    return json.dumps({**fields, "record": dict(exchange.facts)}, ensure_ascii=False).encode() + b"\n"


def _answer(exchange: Exchange) -> Mapping[str, Any]:
    answer = exchange.answer
    if not isinstance(answer, str):
        return answer
    if exchange.streamed:
        return joined(exchange.endpoint, answer)
    return dict(json.loads(answer))


def _check(fields: Mapping[str, Any]) -> None:
    """Raises: NoRow: the trainer refuses the row, for example because the caller has begun the answer."""
    from adapters.training.data.reader import parse_conversation
    from adapters.training.errors import DataError

    if isinstance(parse_conversation(fields, 1), DataError):
        raise NoRow(UNSUPPORTED)
