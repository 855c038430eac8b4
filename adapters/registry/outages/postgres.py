"""asyncpg's connection, for a server that may not answer."""

from __future__ import annotations

from typing import Any

import asyncpg  # type: ignore[import-untyped]


class Connection(asyncpg.Connection):
    """A connection that is closed without waiting for the server.

    asyncpg says goodbye and waits for the answer, for each connection of a pool in turn. A server that still lives
    notices the closed socket as well; there is no open transaction then, or one that must be rolled back anyway.
    """

    async def close(self, *, timeout: float | None = None) -> None:
        """Close the socket."""
        self.terminate()


def connect_arguments(*, connect_timeout_s: float, statement_timeout_s: float | None) -> dict[str, Any]:
    """Arguments of `asyncpg.connect`: times in seconds, None for no limit."""
    return {
        "timeout": connect_timeout_s,
        "command_timeout": statement_timeout_s,
        "connection_class": Connection,
    }
