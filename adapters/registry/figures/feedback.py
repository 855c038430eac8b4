"""Feedback of users on answers: one row per request; later feedback replaces earlier."""

from __future__ import annotations

from dataclasses import asdict

import sqlalchemy as sa

from adapters.models import Feedback, Rating
from adapters.registry.database import DatabasePart, insert_into
from adapters.registry.schema import tables
from adapters.registry.schema.rows import records

_T = tables.feedback
_KEY = ("tenant", "request_id")
#: Rows that are read between two pauses of the event loop: a stored chat has up to 512 KiB.
_SLICE = 4


class FeedbackStore(DatabasePart):
    """The feedback table. It writes no audit rows, because feedback does not change what is served."""

    async def put(self, feedback: Feedback) -> None:
        """Store feedback; it replaces earlier feedback on the same request."""
        row = asdict(feedback)
        row["messages"] = list(row["messages"]) if feedback.messages is not None else None
        insert = insert_into(self._database.engine.dialect, _T).values(**row)
        changed = {name: insert.excluded[name] for name in row if name not in _KEY}
        async with self._database.write() as connection:
            await connection.execute(
                insert.on_conflict_do_update(index_elements=[_T.c[name] for name in _KEY], set_=changed)
            )

    async def list(
        self,
        *,
        tenant: str | None = None,
        adapter: str | None = None,
        version: int | None = None,
        rating: Rating | None = None,
        with_messages: bool = False,
        limit: int | None = None,
    ) -> tuple[Feedback, ...]:
        """Feedback, newest first; None selects all, and `with_messages` only feedback with a chat."""
        query = sa.select(_T).order_by(_T.c.at.desc(), _T.c.request_id).limit(limit)
        filters = {"tenant": tenant, "adapter": adapter, "version": version, "rating": rating}
        for name, value in filters.items():
            if value is not None:
                query = query.where(_T.c[name] == value)
        if with_messages:
            query = query.where(_T.c.messages.is_not(None))
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings()
            return await records(rows, lambda row: _feedback_of(dict(row)), size=_SLICE)


def _feedback_of(row: dict[str, object]) -> Feedback:
    messages = row.pop("messages")
    rating = Rating(str(row.pop("rating")))
    kept = tuple(messages) if isinstance(messages, list) else None
    return Feedback(**row, rating=rating, messages=kept)  # type: ignore[arg-type]
