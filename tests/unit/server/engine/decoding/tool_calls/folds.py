"""Folds the events of a stream into the whole answer, as clients do, and brings both into one form."""

from __future__ import annotations

import json
from typing import Any

from sampling.endpoints import Endpoint

Json = dict[str, Any]


def of_stream(endpoint: Endpoint, events: list[Json]) -> Json:
    """What a client has at the end of the stream."""
    return {
        Endpoint.CHAT: _chat_stream,
        Endpoint.RESPONSES: _responses_stream,
        Endpoint.MESSAGES: _messages_stream,
    }[endpoint](events)


def of_whole(endpoint: Endpoint, answer: Json) -> Json:
    """The same form of a whole answer."""
    if endpoint is Endpoint.CHAT:
        choices = [
            _choice(
                c["message"]["content"],
                c["message"]["reasoning"],
                [call["function"] for call in c["message"].get("tool_calls", [])],
                c["finish_reason"],
                c["stop_reason"],
            )
            for c in answer["choices"]
        ]
        return {"choices": choices, "usage": _present(answer["usage"])}
    if endpoint is Endpoint.RESPONSES:
        return _response(answer)
    blocks = [_block(block) for block in answer["content"]]
    names = ("stop_reason", "stop_sequence", "usage")
    return {"content": blocks} | {name: answer.get(name) for name in names}


def texts_and_calls(endpoint: Endpoint, form: Json) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Content and calls (name, arguments) of each choice of a form."""
    if endpoint is Endpoint.CHAT:
        return [
            (c["content"], [(call["name"], json.loads(call["arguments"])) for call in c["calls"]])
            for c in form["choices"]
        ]
    if endpoint is Endpoint.RESPONSES:
        text = "".join(item["text"] for item in form["output"] if item["type"] == "message")
        calls = [i for i in form["output"] if i["type"] == "function_call"]
        return [(text, [(call["name"], json.loads(call["arguments"])) for call in calls])]
    text = "".join(block["text"] for block in form["content"] if block["type"] == "text")
    calls = [block for block in form["content"] if block["type"] == "tool_use"]
    return [(text, [(call["name"], call["input"]) for call in calls])]


def _present(usage: Json) -> Json:
    """The usage without what is null: the stream leaves it out."""
    return {k: _present(v) if isinstance(v, dict) else v for k, v in usage.items() if v is not None}


def _choice(content: str | None, thoughts: str | None, calls: list[Json], finish: Any, stop: Any) -> Json:
    functions = [{"name": call["name"], "arguments": call["arguments"]} for call in calls]
    texts = {"content": content or "", "reasoning": thoughts or ""}
    return texts | {"calls": functions, "finish_reason": finish, "stop_reason": stop}


def _chat_stream(events: list[Json]) -> Json:
    choices: dict[int, Json] = {}
    usage: Json = {}
    for event in events:
        usage = event.get("usage") or usage
        for part in event["choices"]:
            delta = part["delta"]
            new: Json = {"content": "", "reasoning": "", "calls": {}, "end": (None, None)}
            choice = choices.setdefault(part["index"], new)
            assert choice["end"][0] is None, "nothing follows the reason"
            choice["content"] += delta.get("content") or ""
            choice["reasoning"] += delta.get("reasoning") or ""
            for call in delta.get("tool_calls", []):
                known = choice["calls"].setdefault(call["index"], {"name": "", "arguments": ""})
                assert bool(call.get("id")) == (not known["name"]), "the first piece has the id"
                known["name"] += call["function"].get("name") or ""
                known["arguments"] += call["function"].get("arguments") or ""
            choice["end"] = part["finish_reason"], part.get("stop_reason")
    found = [choices[index] for index in sorted(choices)]
    return {
        "choices": [
            _choice(c["content"], c["reasoning"], list(c["calls"].values()), *c["end"]) for c in found
        ],
        "usage": _present(usage),
    }


def _item(item: Json) -> Json:
    if item["type"] in ("message", "reasoning"):
        return {"type": item["type"], "text": "".join(part["text"] for part in item["content"])}
    return {name: item[name] for name in ("type", "name", "arguments", "status")}


def _response(answer: Json) -> Json:
    names = ("status", "incomplete_details", "usage")
    return {"output": [_item(item) for item in answer["output"]]} | {name: answer[name] for name in names}


_PIECES = (
    "response.output_text.delta",
    "response.reasoning_text.delta",
    "response.function_call_arguments.delta",
)


def _responses_stream(events: list[Json]) -> Json:
    texts: dict[str, str] = {}
    items = []
    for event in events:
        kind = event["type"]
        if kind in _PIECES:
            texts[event["item_id"]] = texts.get(event["item_id"], "") + event["delta"]
        elif kind == "response.output_item.done":
            item = _item(event["item"])
            assert texts.get(event["item"]["id"], "") == item.get("text", item.get("arguments"))
            items.append(item)
    assert events[-1]["type"] == "response.completed"
    last = _response(events[-1]["response"])
    assert last["output"] == items
    return last


def _block(block: Json) -> Json:
    return {name: value for name, value in block.items() if name not in ("id", "signature")}


def _messages_stream(events: list[Json]) -> Json:
    blocks: list[Json] = []
    found: Json = {"stop_reason": None, "stop_sequence": None, "usage": {}}
    for event in events:
        kind = event["type"]
        if kind == "message_start":
            found["usage"] |= event["message"]["usage"]
        elif kind == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(_block(event["content_block"]) | {"json": ""})
        elif kind == "content_block_delta":
            delta = event["delta"]
            for name, piece in (("text", "text"), ("thinking", "thinking"), ("json", "partial_json")):
                if piece in delta:
                    blocks[-1][name] += delta[piece]
        elif kind == "message_delta":
            found |= {"stop_reason": event["delta"]["stop_reason"]}
            found |= {"stop_sequence": event["delta"].get("stop_sequence")}
            found["usage"] |= event["usage"]
    assert events[-1]["type"] == "message_stop"
    for block in blocks:
        written = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(written)
    return {"content": blocks} | found
