"""Writes whole answers as JSON, choice by choice, with a pause for the event loop after each.

An answer may have a thousand choices, with the ids of a long prompt or thousands of log-probabilities in each.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from pydantic import BaseModel

from server.request.event_loop import pause

#: Choices that are written in one piece.
FEW_CHOICES: Final = 4
_CHOICES: Final = '"choices":['


def as_json(value: Any) -> str:
    """The value as starlette's JSONResponse writes it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def with_commas(pieces: Sequence[str]) -> list[str]:
    """The pieces with a comma between each two."""
    return [part for piece in pieces for part in (",", piece)][1:]


async def dump(
    result: BaseModel, model: str, fill: Callable[[str], Awaitable[list[str]]] | None, *, exclude_none: bool
) -> tuple[dict[str, Any], list[str] | None]:
    """A handler's answer as JSON values, and as pieces of JSON where it has many choices or log-probabilities.

    Args:
        result: what vLLM's handler returned.
        model: the public name that the answer has.
        fill: replaces the placeholders in a piece (`logprobs.DeferredLogprobs.filled`); None: there are none.
        exclude_none: leave out fields without a value.
    """
    choices: list[BaseModel] = getattr(result, "choices", None) or []
    if len(choices) > FEW_CHOICES:
        result.choices = []  # type: ignore[attr-defined]
    content = result.model_dump(mode="json", by_alias=True, exclude_none=exclude_none)
    if "model" in content:
        content["model"] = model
    if len(choices) <= FEW_CHOICES:
        return content, await fill(as_json(content)) if fill else None
    head, _, tail = as_json(content).partition(_CHOICES)
    pieces = [head + _CHOICES]
    for choice in choices:
        dumped = choice.model_dump(mode="json", by_alias=True, exclude_none=exclude_none)
        content["choices"].append(dumped)
        text = as_json(dumped)
        pieces += [*(await fill(text) if fill else [text]), ","]
        await pause()
    return content, [*pieces[:-1], *(await fill(tail) if fill else [tail])]
