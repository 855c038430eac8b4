"""One request that is recorded, while it is answered: what is sent of the answer is kept, within bounds."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from adapters.tenant_settings import RecordSettings
from sampling.endpoints import Endpoint
from server.request.context import Answer, RequestContext, StreamAnswer
from server.usage.records.chat_rows import INCOMPLETE, UNSUPPORTED


class Outcome(StrEnum):
    """What became of a request that was chosen."""

    WRITTEN = "written"
    INCOMPLETE = INCOMPLETE
    """It failed, was aborted, or its answer was cut off."""
    UNSUPPORTED = UNSUPPORTED
    """It is no chat that the trainer reads."""
    TOO_LARGE = "too_large"
    DROPPED = "dropped"
    """There was no room in memory, in the queue or in the data folder."""
    TIMEOUT = "timeout"
    """The tenant's patterns took too long, now or within the last minute."""
    FAILED = "failed"
    """The worker process crashed, or the disk refused the file."""


@dataclass(slots=True, eq=False)
class Recording:
    """See the module."""

    tenant: str
    settings: RecordSettings
    endpoint: Endpoint
    request: bytes
    hold: Callable[[Recording, int], Outcome | None]
    """Asks for room for so many characters more; returns why there is none."""
    outcome: Outcome | None = None
    """Why it will not be written, as far as known."""
    whole: dict[str, Any] | str | None = None
    """An answer that is no stream."""
    events: list[str] = field(default_factory=list)
    """Of a stream."""
    held: int = 0
    """Bytes and characters in memory."""
    context: RequestContext | None = None
    """Of the request, when its last byte was sent."""

    def noting(self, answer: Answer) -> Answer:
        """The same answer; what is sent of it is kept."""
        if isinstance(answer, StreamAnswer):
            return replace(answer, events=self._noted(answer.events), shortcut=None)
        self.whole = answer.content
        if answer.pieces is not None and self._has_room(sum(map(len, answer.pieces))):
            self.whole = "".join(answer.pieces)
        return answer

    def answered(self, context: RequestContext) -> None:
        """The last byte of the answer was sent."""
        self.context = context

    def drop(self, outcome: Outcome) -> None:
        """Keep nothing of it."""
        self.outcome, self.request, self.whole = outcome, b"", None
        self.events.clear()

    async def _noted(self, events: AsyncGenerator[str]) -> AsyncGenerator[str]:
        async with aclosing(events):
            async for event in events:
                if self._has_room(len(event)):
                    self.events.append(event)
                yield event

    def _has_room(self, characters: int) -> bool:
        if self.outcome is None and (reason := self.hold(self, characters)) is not None:
            self.drop(reason)
        return self.outcome is None
