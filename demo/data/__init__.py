"""Generates the two tenants' chats: ``python -m demo.data`` writes the committed JSONL files again.

Each line is one conversation in OpenAI's ``messages`` format, with ``tools`` when the tenant has functions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Conversation = dict[str, Any]

_BUCKETS = 8
# More held-out chats only make the evaluation slower.
HELD_OUT_COUNT = 150


def write_jsonl(path: Path, conversations: Iterable[Conversation]) -> None:
    """Write one conversation per line."""
    lines = (json.dumps(c, ensure_ascii=False) for c in conversations)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def split(draw: Callable[[], Conversation], count: int) -> tuple[list[Conversation], list[Conversation]]:
    """Draw until there are ``count`` training chats and enough held-out ones; returns both lists.

    A hash of the first question decides whether a chat is held out, so no first question occurs in both lists.
    """
    train: dict[str, Conversation] = {}
    held_out: dict[str, Conversation] = {}
    while len(train) < count or len(held_out) < HELD_OUT_COUNT:
        chat = draw()
        question = next(m["content"] for m in chat["messages"] if m["role"] == "user")
        out = hashlib.sha256(question.lower().encode()).digest()[0] % _BUCKETS == 0
        side, limit = (held_out, HELD_OUT_COUNT) if out else (train, count)
        if len(side) < limit:
            side.setdefault(json.dumps(chat), chat)
    return list(train.values()), list(held_out.values())
