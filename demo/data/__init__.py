"""The two tenants' chats, generated: ``python -m demo.data`` writes the committed JSONL files again.

A line is one conversation in OpenAI ``messages`` form, with ``tools`` where the tenant has functions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Conversation = dict[str, Any]

_BUCKETS = 8
# Held-out chats are for measuring: more than this only makes the measurement slower.
HELD_OUT_COUNT = 150


def write_jsonl(path: Path, conversations: Iterable[Conversation]) -> None:
    """Write one conversation per line."""
    lines = (json.dumps(c, ensure_ascii=False) for c in conversations)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def split(draw: Callable[[], Conversation], count: int) -> tuple[list[Conversation], list[Conversation]]:
    """Draw until there are ``count`` training chats; return them and the held-out ones met on the way.

    The side is chosen by a hash of the first thing asked, so nothing asked in training is held out, whatever
    was asked after it.
    """
    train: dict[str, Conversation] = {}
    held_out: dict[str, Conversation] = {}
    while len(train) < count or len(held_out) < HELD_OUT_COUNT:
        chat = draw()
        asked = next(m["content"] for m in chat["messages"] if m["role"] == "user")
        out = hashlib.sha256(asked.lower().encode()).digest()[0] % _BUCKETS == 0
        side, limit = (held_out, HELD_OUT_COUNT) if out else (train, count)
        if len(side) < limit:
            side.setdefault(json.dumps(chat), chat)
    return list(train.values()), list(held_out.values())
