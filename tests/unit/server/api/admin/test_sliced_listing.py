"""Long lists are sent in slices, and say the same."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from server.api.admin.sliced_listing import SLICE, json_listing, record_dump, text


class Record(BaseModel):
    name: str
    count: int | None = None


async def parts_of(response: StreamingResponse) -> tuple[list[str], int]:
    """What is sent, and how many turns the event loop made meanwhile."""
    turns = [0]

    async def count() -> None:
        while True:
            await asyncio.sleep(0)
            turns[0] += 1

    counting = asyncio.create_task(count())
    parts = [str(part) async for part in response.body_iterator]
    counting.cancel()
    return parts, turns[0]


@pytest.mark.parametrize("count", [0, 1, SLICE, SLICE + 1, 5 * SLICE + 3])
@pytest.mark.parametrize("typed", [False, True])
async def test_a_listing(count: int, typed: bool) -> None:
    records = [Record(name=f"ü{at}") for at in range(count)]
    items: Any = records if typed else [record.model_dump() for record in records]
    parts, turns = await parts_of(json_listing(iter(items), record_dump(Record) if typed else None))
    assert json.loads("".join(parts)) == {"data": [record.model_dump() for record in records]}
    assert turns >= (count - 1) // SLICE and len(parts) > count // SLICE


async def test_text_in_small_slices() -> None:
    parts, turns = await parts_of(text(iter("abcdefgh"), "".join, "text/plain", size=3))
    assert parts == ["abc", "def", "gh"] and turns >= 2
