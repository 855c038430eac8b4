"""Bodies of requests that come in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator


async def pieces(*chunks: bytes | Exception) -> AsyncIterator[bytes]:
    """The chunks one after the other; an exception among them is raised in its place."""
    for chunk in chunks:
        if isinstance(chunk, Exception):
            raise chunk
        yield chunk
