"""Joins the events of a streamed answer to the answer that the request would have had without `stream`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sampling.endpoints import Endpoint
from server.usage.records.chat_rows import INCOMPLETE, UNSUPPORTED, NoRow

_DATA = "data:"


def joined(endpoint: str, events: str) -> dict[str, Any]:
    """The answer, with what `chat_rows` reads of it. Raises: NoRow: it is not complete."""
    join = _JOINS.get(endpoint)
    if join is None:
        raise NoRow(UNSUPPORTED)
    try:
        return join(_parsed(events))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise NoRow(INCOMPLETE) from error


def _parsed(events: str) -> Iterator[dict[str, Any]]:
    for line in events.split("\n"):
        data = line.removeprefix(_DATA).strip() if line.startswith(_DATA) else ""
        if data and data != "[DONE]":
            event = json.loads(data)
            if event.get("error"):
                raise NoRow(INCOMPLETE)
            yield event


def _chat(events: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The first choice of a chat."""
    texts: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    reason = None
    for event in events:
        for choice in event["choices"]:
            if choice["index"]:
                continue
            delta = choice["delta"]
            texts.append(delta.get("content") or "")
            for part in delta.get("tool_calls") or ():
                call = calls.setdefault(part["index"], {"id": "", "function": {"name": "", "arguments": ""}})
                call["id"] += part.get("id") or ""
                for name in ("name", "arguments"):
                    call["function"][name] += (part.get("function") or {}).get(name) or ""
            reason = choice.get("finish_reason") or reason
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return {"choices": [{"index": 0, "finish_reason": reason, "message": message}]}


def _messages(events: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Anthropic's message."""
    blocks: dict[int, dict[str, Any]] = {}
    inputs: dict[int, str] = {}
    reason = None
    for event in events:
        if event["type"] == "content_block_start":
            blocks[event["index"]] = dict(event["content_block"])
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            if delta["type"] == "text_delta":
                blocks[event["index"]]["text"] += delta["text"]
            elif delta["type"] == "input_json_delta":
                inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
        elif event["type"] == "message_delta":
            reason = event["delta"].get("stop_reason") or reason
    for index, text in inputs.items():
        blocks[index]["input"] = json.loads(text or "{}")
    return {"stop_reason": reason, "content": [blocks[index] for index in sorted(blocks)]}


def _response(events: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The whole response, which its last event has."""
    for event in events:
        if event["type"] == "response.completed":
            return dict(event["response"])
    raise NoRow(INCOMPLETE)


_JOINS: Mapping[str, Callable[[Iterator[dict[str, Any]]], dict[str, Any]]] = {
    Endpoint.CHAT: _chat,
    Endpoint.MESSAGES: _messages,
    Endpoint.RESPONSES: _response,
}
