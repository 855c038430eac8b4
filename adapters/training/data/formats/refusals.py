"""Rows that are no chats: what they are, and the command that converts them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from adapters.training.errors import DataError

_NEEDED = (
    "A row needs `messages` (or `prompt` and `completion`, ShareGPT `conversations`, Alpaca `instruction` and "
    "`output`, or xLAM `query`, `tools` and `answers`)"
)
_KEYS_SHOWN = 12
_TEMPLATE_MARKS = ("<|im_start|>", "[INST]", "<|start_header_id|>", "### Instruction")


def refuse_row(row: Any, where: str) -> DataError:
    """The error for a row of an unknown form."""
    if isinstance(row, list) and row and all(_is_message(part) for part in row):
        return DataError(
            f"{where} is a list of messages. Put it into an object: jq -c '{{messages: .}}' FILE > chats.jsonl"
        )
    if _is_message(row):
        return DataError(
            f"{where} is one message, not a chat. If the file is one list of messages, put it into an object: "
            "jq -c '{messages: .}' FILE > chats.jsonl"
        )
    if not isinstance(row, dict):
        return DataError(f"{where} is {_kind(row)}, not an object. {_NEEDED}.")
    return DataError(f"{where} has {_keys(row)}. {_advice(row)}")


def refuse_dislike(row: Mapping[str, Any], where: str) -> None:
    """Refuse the rows of KTO files that are labelled as bad.

    Raises:
        DataError: ``label`` is false.
    """
    if row.get("label") is False:
        raise DataError(
            f"{where}: `label` is false, so the answer is a bad one, and training would teach it. Train the "
            "file with --preferences, or remove such rows: jq -c 'select(.label != false)' FILE > chats.jsonl"
        )


def is_preference(row: Mapping[str, Any]) -> bool:
    """Whether the row has a better and a worse answer."""
    return {"chosen", "rejected"} <= row.keys() or {"preferred_output", "non_preferred_output"} <= row.keys()


def _advice(row: Mapping[str, Any]) -> str:
    if is_preference(row):
        chosen = "{messages: (.input.messages + .preferred_output)}"
        if "chosen" in row:
            chosen = "{prompt, completion: .chosen}" if "prompt" in row else "{messages: .chosen}"
        return (
            "It is a preference row: a better and a worse answer. Train it with --preferences FILE; to train the "
            "better ones as chats, convert it: "
            f"jq -c '{chosen}' FILE > chats.jsonl"
        )
    for name, value in row.items():
        if isinstance(value, dict) and "messages" in value:
            return f"The chat is inside `{name}`: jq -c '{_path(name)}' FILE > chats.jsonl"
        if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
            if _is_message(value[0]):
                return f"`{name}` looks like the messages: jq -c '{{messages: {_path(name)}}}' FILE > chats.jsonl"
            return f"The rows seem to be inside `{name}`: jq -c '{_path(name)}[]' FILE > chats.jsonl"
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if len(texts) == 1 and any(mark in row[texts[0]] for mark in _TEMPLATE_MARKS):
        return (
            f"`{texts[0]}` is a chat that was rendered with a template already; give the messages it was made from, "
            "because the base's own template renders them in training."
        )
    if len(texts) < 2:
        return f"{_NEEDED}."
    question, answer = texts[:2]
    return (
        f"{_NEEDED}. If `{question}` is the question and `{answer}` the answer, convert it: "
        f"jq -c '{{prompt: {_path(question)}, completion: {_path(answer)}}}' FILE > chats.jsonl"
    )


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value and ("content" in value or "tool_calls" in value)


def _path(name: str) -> str:
    """jq's path of a key."""
    return f".{name}" if name.isidentifier() and name.isascii() else f".[{json.dumps(name)}]"


def _keys(row: Mapping[str, Any]) -> str:
    if not row:
        return "no keys"
    shown = ", ".join(f"`{str(key)[:40]}`" for key in list(row)[:_KEYS_SHOWN])
    more = f" and {len(row) - _KEYS_SHOWN} more" if len(row) > _KEYS_SHOWN else ""
    return f"the key {shown}" if len(row) == 1 else f"the keys {shown}{more}"


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
