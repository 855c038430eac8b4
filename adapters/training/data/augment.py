"""Rephrases the questions of chats, so that an adapter does not depend on one wording.

Only what a caller may write in another way changes: the user's wording, the order of the tools, a system prompt
where there is none. The answers do not change, and the chat template is always the base's own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from adapters.training.data.chat_template import Conversation, Message

SHARE = 0.5
_OPENERS = (
    "Hi, ", "Hello! ", "Hey, ", "Please: ", "Question: ", "I have a question. ", "Could you help me? ", "Q: ",
)  # fmt: skip
_CLOSERS = (" Thanks!", " Thank you.", " Please.", " Thanks in advance.", "\n")
_SYSTEMS = ("You are a helpful assistant.", "You are a helpful assistant. Be brief.", "Answer the user.")


def augment(chats: Sequence[Conversation], seed: int) -> list[Conversation]:
    """``chats`` in their order, ``SHARE`` of them rephrased; the same for the same ``seed``."""
    draw = random.Random(seed)
    return [rephrase(chat, draw) if draw.random() < SHARE else chat for chat in chats]


def rephrase(chat: Conversation, draw: random.Random) -> Conversation:
    """``chat`` with other words, layout and order of tools."""
    messages = [_reword(m, draw) if m["role"] == "user" else m for m in chat.messages]
    if messages[0]["role"] != "system" and not chat.tools and draw.random() < 0.3:
        messages.insert(0, {"role": "system", "content": draw.choice(_SYSTEMS)})
    tools = draw.sample(chat.tools, len(chat.tools))
    return replace(chat, messages=tuple(messages), tools=tuple(tools))


def _reword(message: Message, draw: random.Random) -> dict[str, Any]:
    text = str(message["content"]).strip()
    # The phrases are English; text in other scripts gets only other punctuation and layout.
    if text.isascii() and draw.random() < 0.6:
        opener = draw.choice(_OPENERS)
        text = opener + (_uncapitalised(text) if opener.endswith(", ") else text)
    if draw.random() < 0.3 and text[-1:] in "?.!":
        text = text[:-1].rstrip() or text
    if text.isascii() and draw.random() < 0.3:
        text += draw.choice(_CLOSERS)
    if draw.random() < 0.1:
        text = text.lower() if text.isascii() else text + "\n"
    return {**message, "content": text or message["content"]}


def _uncapitalised(text: str) -> str:
    first = text.split(maxsplit=1)[0] if text.split() else ""
    return text[:1].lower() + text[1:] if first[1:].islower() else text
