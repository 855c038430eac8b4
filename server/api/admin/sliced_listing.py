"""Sends long lists in slices, with a pause for the event loop after each."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar

from pydantic import TypeAdapter
from starlette.responses import StreamingResponse

from server.request.event_loop import pause

Item = TypeVar("Item")
#: Items between two pauses; each takes up to 40 us.
SLICE = 256


async def slices(items: Iterable[Item], size: int = SLICE) -> AsyncIterator[list[Item]]:
    """The items, which may be made while they are asked for, in slices."""
    remaining = iter(items)
    while part := list(islice(remaining, size)):
        yield part
        await pause()


def json_listing(
    items: Iterable[Any], dump: Callable[[Sequence[Any]], str] | None = None
) -> StreamingResponse:
    """`{"data": [...]}`.

    Args:
        items: may be made while they are sent.
        dump: a slice as a JSON array; otherwise the items are JSON values.
    """

    async def pieces() -> AsyncIterator[str]:
        before = '{"data":['
        async for part in slices(items):
            yield before + (dump or _dump)(part)[1:-1]
            before = ","
        yield "]}" if before == "," else before + "]}"

    return StreamingResponse(pieces(), media_type="application/json")


def record_dump(record: type[Any]) -> Callable[[Sequence[Any]], str]:
    """Writes records of a pydantic model as FastAPI does."""
    adapter: TypeAdapter[Any] = TypeAdapter(list[record])  # type: ignore[valid-type]
    return lambda part: adapter.dump_json(list(part), by_alias=True).decode()


def text(
    items: Iterable[Item], write: Callable[[Sequence[Item]], str], media_type: str, size: int = SLICE
) -> StreamingResponse:
    """Text that is written slice by slice, with `size` items in each."""

    async def pieces() -> AsyncIterator[str]:
        async for part in slices(items, size):
            yield write(part)

    return StreamingResponse(pieces(), media_type=media_type)


def _dump(part: Sequence[Any]) -> str:
    return json.dumps(part, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
