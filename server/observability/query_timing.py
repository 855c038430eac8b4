"""Times database statements."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
from prometheus_client import Histogram
from sqlalchemy.ext.asyncio import AsyncEngine

#: First words of statements that are told apart; transactions and pragmas are not queries.
_OPERATIONS = ("select", "insert", "update", "delete")


def time_queries(database: AsyncEngine, seconds: Histogram) -> None:
    """Observe every statement on `database`, including the wait for the driver."""
    timed = {name: seconds.labels(name) for name in _OPERATIONS}

    def before(connection: Any, *_: Any) -> None:
        connection.info["loragate_began"] = time.perf_counter()

    def after(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        child = timed.get(statement.lstrip()[:6].lower())
        if child is not None:
            child.observe(time.perf_counter() - connection.info["loragate_began"])

    sa.event.listen(database.sync_engine, "before_cursor_execute", before)
    sa.event.listen(database.sync_engine, "after_cursor_execute", after)
