"""Answers that are written choice by choice are those that are written at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from server.engine.rendering.json_pieces import FEW_CHOICES, as_json, dump, with_commas

TRICK = 'a "choices":[ \\ b'


class Choice(BaseModel):
    index: int
    text: str
    note: str | None = None


class Answer(BaseModel):
    id: str
    model: str
    choices: list[Choice]
    usage: dict[str, int]


@pytest.mark.parametrize("count", [0, 1, FEW_CHOICES, FEW_CHOICES + 1, 50])
@pytest.mark.parametrize("exclude_none", [False, True])
@pytest.mark.parametrize("fills", [False, True])
async def test_the_answer_is_the_same(count: int, exclude_none: bool, fills: bool) -> None:
    answer = Answer(
        id=TRICK, model="a/b@1#x", usage={"total_tokens": 3},
        choices=[Choice(index=at, text=f"{TRICK} {at} ü") for at in range(count)],
    )  # fmt: skip
    whole = answer.model_dump(mode="json", exclude_none=exclude_none) | {"model": "public"}

    async def fill(text: str) -> list[str]:
        return [text[:5], text[5:]]

    content, pieces = await dump(answer, "public", fill if fills else None, exclude_none=exclude_none)
    assert content == whole
    if count > FEW_CHOICES or fills:
        assert pieces is not None and "".join(pieces) == as_json(whole)
    else:
        assert pieces is None
    assert count <= FEW_CHOICES or max(map(len, pieces or [])) < 200


def test_commas() -> None:
    assert [with_commas(["a"] * count) for count in range(3)] == [[], ["a"], ["a", ",", "a"]]


def test_json_has_no_infinite_numbers() -> None:
    value: Any = {"a": float("inf")}
    with pytest.raises(ValueError, match="JSON"):
        as_json(value)
    assert json.loads(as_json({"ü": [1, None]})) == {"ü": [1, None]}
