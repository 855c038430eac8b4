"""From a request and its answer to one row of training data: OpenAI's `messages` and `tools`.

Of chats, Anthropic's messages and responses. A row has the whole answer of the first choice; anything else has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sampling.endpoints import Endpoint

Fields = Mapping[str, Any]
_TEXT_PARTS = ("text", "input_text", "output_text")
_WHOLE_CHAT = ("stop", "tool_calls", "function_call")
_WHOLE_MESSAGE = ("end_turn", "stop_sequence", "tool_use")


class NoRow(Exception):
    """There is no row; `reason` is the outcome that is counted (`server.usage.records.recorder.Outcome`)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


INCOMPLETE, UNSUPPORTED = "incomplete", "unsupported"


@dataclass(frozen=True, slots=True)
class ChatRow:
    """Messages, of which the last is the answer, and the declared functions."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]


def row_of(endpoint: str, body: Fields, answer: Fields) -> ChatRow:
    """The row of a request and its whole answer.

    Args:
        endpoint: an `Endpoint`.
        body: of the request.
        answer: as it is without `stream`.

    Raises: NoRow: the answer is not complete, or the trainer has no form for this.
    """
    reader = _READERS.get(endpoint)
    if reader is None:
        raise NoRow(UNSUPPORTED)
    try:
        return reader(body, answer)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise NoRow(UNSUPPORTED) from error


def _chat(body: Fields, answer: Fields) -> ChatRow:
    choice = min(answer["choices"], key=lambda choice: int(choice["index"]))
    if choice["finish_reason"] not in _WHOLE_CHAT:
        raise NoRow(INCOMPLETE)
    messages = [_message(message) for message in (*body["messages"], choice["message"])]
    return ChatRow(messages, [dict(tool) for tool in body.get("tools") or ()])


def _message(raw: Fields) -> dict[str, Any]:
    """A message with the fields that a template knows."""
    message: dict[str, Any] = {"role": raw["role"], "content": _text(raw.get("content"))}
    if raw.get("tool_calls"):
        message["tool_calls"] = [
            _call(call.get("id", ""), call["function"]["name"], call["function"].get("arguments"))
            for call in raw["tool_calls"]
        ]
    return message | {name: raw[name] for name in ("tool_call_id", "name") if isinstance(raw.get(name), str)}


def _call(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text or "{}"}}


def _text(content: Any) -> str:
    """The text of a content. Raises: NoRow: it has parts that are no text."""
    if content is None or isinstance(content, str):
        return content or ""
    if any(part["type"] not in _TEXT_PARTS for part in content):
        raise NoRow(UNSUPPORTED)
    return "".join(str(part["text"]) for part in content)


def _function(declared: Fields, parameters: str) -> dict[str, Any]:
    """A declaration as in a chat; `parameters` is the field with the schema."""
    function = {"name": declared["name"], "parameters": declared.get(parameters) or {}}
    if declared.get("description"):
        function["description"] = declared["description"]
    return {"type": "function", "function": function}


def _anthropic(body: Fields, answer: Fields) -> ChatRow:
    if answer["stop_reason"] not in _WHOLE_MESSAGE:
        raise NoRow(INCOMPLETE)
    messages = [{"role": "system", "content": _text(body["system"])}] if body.get("system") else []
    for message in (*body["messages"], {"role": "assistant", "content": answer["content"]}):
        messages += _blocks(message["role"], message["content"])
    return ChatRow(messages, [_function(tool, "input_schema") for tool in body.get("tools") or ()])


def _blocks(role: str, content: Any) -> list[dict[str, Any]]:
    """The messages that one message of Anthropic's stands for: results of tools are messages of their own."""
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    known = [block for block in content if block["type"] not in ("thinking", "redacted_thinking")]
    results = [
        {"role": "tool", "tool_call_id": block["tool_use_id"], "content": _text(block.get("content"))}
        for block in known
        if block["type"] == "tool_result"
    ]
    calls = [
        _call(block["id"], block["name"], block["input"]) for block in known if block["type"] == "tool_use"
    ]
    rest = [block for block in known if block["type"] not in ("tool_result", "tool_use")]
    if not rest and not calls:
        return results
    message: dict[str, Any] = {"role": role, "content": _text(rest)}
    return [*results, message | ({"tool_calls": calls} if calls else {})]


def _responses(body: Fields, answer: Fields) -> ChatRow:
    if answer["status"] != "completed":
        raise NoRow(INCOMPLETE)
    asked = body["input"]
    items = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    messages = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    messages += _items([*items, *answer["output"]])
    tools = body.get("tools") or ()
    if any(tool["type"] != "function" for tool in tools):
        raise NoRow(UNSUPPORTED)
    return ChatRow(messages, [_function(tool, "parameters") for tool in tools])


def _items(items: Sequence[Fields]) -> list[dict[str, Any]]:
    """The messages that items of a response stand for: calls belong to the assistant's message before them."""
    messages: list[dict[str, Any]] = []
    for item in items:
        kind = item.get("type") or "message"
        if kind == "message":
            messages.append({"role": item["role"], "content": _text(item["content"])})
        elif kind == "function_call":
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            call = _call(item["call_id"], item["name"], item["arguments"])
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            output = _text(item["output"])
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": output})
        elif kind != "reasoning":
            raise NoRow(UNSUPPORTED)
    return messages


_READERS: Mapping[str, Callable[[Fields, Fields], ChatRow]] = {
    Endpoint.CHAT: _chat,
    Endpoint.MESSAGES: _anthropic,
    Endpoint.RESPONSES: _responses,
}
