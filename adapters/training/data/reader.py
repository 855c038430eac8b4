"""Reads chats from files; every error names the line and the field."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from adapters.training.data.chat_template import Conversation
from adapters.training.data.files import RawRow, parse_row, raw_rows
from adapters.training.data.formats import Row, as_messages
from adapters.training.data.messages import check_order, read_message
from adapters.training.errors import DataError

_UNUSABLE_SHOWN = 5
_GREETING = "it begins with an assistant turn, which has no prompt and is not trained"
_ALL_OFF = "every assistant turn is switched off by a flag, so nothing of it is trained"


def read_conversations(path: Path) -> list[Conversation]:
    """All chats of a file; empty lines are skipped.

    Raises:
        DataError: the file is missing or empty, or lines cannot be trained on; it names the first ones.
    """
    lines = read_lines(path)
    check_usable(path, [line for line in lines if isinstance(line, DataError)])
    return [line for line in lines if isinstance(line, Conversation)]


def check_usable(path: Path, unusable: Sequence[DataError]) -> None:
    """Refuse a file with lines that cannot be used.

    Raises:
        DataError: there is one.
    """
    if not unusable:
        return
    shown = "".join(f"\n  {error}" for error in unusable[:_UNUSABLE_SHOWN])
    more = len(unusable) - _UNUSABLE_SHOWN
    rest = f"\n  and {more} more" if more > 0 else ""
    count = "1 line" if len(unusable) == 1 else f"{len(unusable)} lines"
    raise DataError(
        f"{path.name}: {count} cannot be used:{shown}{rest}\nCorrect them, or train without them: --skip-unusable. "
        f"`loragate train --check {path.name}` lists what else is wrong."
    )


def read_lines(path: Path) -> list[Conversation | DataError]:
    """Every row as a chat, or as the error in it.

    Raises:
        DataError: the file is missing, empty, of another kind, or damaged.
    """
    return list(parsed(raw_rows(path), path))


def parsed(rows: Iterable[tuple[int, RawRow]], path: Path) -> Iterator[Conversation | DataError]:
    """Every row of ``path`` as a chat, or as the error in it.

    Raises:
        DataError: there is none.
    """
    line = 0
    for line, raw in rows:
        yield parse_conversation(raw, line)
    if not line:
        raise DataError(f"{path.name} has no chats. Give a JSONL file with one chat per line.")


def parse_conversation(raw: RawRow, line: int) -> Conversation | DataError:
    """A row as a chat, or as the error in it."""
    try:
        return _parse(parse_row(raw, line), line)
    except DataError as error:
        return error


def split_held_out(
    conversations: Sequence[Conversation], share: float
) -> tuple[list[Conversation], list[Conversation]]:
    """Training and held-out chats, split by a hash of the first question; case and spaces do not count.

    Chats with the same first question are on the same side, so no held-out question is trained on.
    """
    train: list[Conversation] = []
    held_out: list[Conversation] = []
    for conversation in conversations:
        (held_out if share_of(first_question(conversation)) < share else train).append(conversation)
    return train, held_out


def first_question(conversation: Conversation) -> str:
    """The first message of the user, in lower case and with single spaces."""
    question = next((m["content"] for m in conversation.messages if m["role"] == "user"), "") or ""
    return normalised(str(question))


def normalised(text: str) -> str:
    """``text`` in lower case and with single spaces."""
    return " ".join(text.lower().split())


def share_of(question: str) -> float:
    """A number in [0, 1) that depends only on ``question``: below ``held_out_share`` its chats are held out."""
    return int.from_bytes(hashlib.sha256(question.encode()).digest()[:8]) / 2**64


def _parse(raw: Any, line: int) -> Conversation:
    return conversation_of(as_messages(raw, f"Line {line}"), line)


def conversation_of(row: Row, line: int) -> Conversation:
    """A row in OpenAI's form as a chat.

    Raises:
        DataError: a message is wrong, or the messages do not follow each other as in a chat.
    """
    where = f"Line {line}"
    notes = list(row.notes)
    messages = tuple(read_message(m, f"{where}, messages[{i}]", notes) for i, m in enumerate(row.messages))
    check_order(messages, where)
    messages = _without_greeting(messages, where, notes)
    if not any(m.get("weight", 1) for m in messages if m["role"] == "assistant"):
        notes.append(_ALL_OFF)
    return Conversation(messages, tuple(row.tools), line, row.form, tuple(notes))


def _without_greeting(messages: Sequence[Any], where: str, notes: list[str]) -> tuple[Any, ...]:
    """``messages``, whose first assistant turn is not trained if no user message comes before it."""
    at = next(i for i, m in enumerate(messages) if m["role"] == "assistant")
    if any(m["role"] == "user" for m in messages[:at]):
        return tuple(messages)
    if not any(m["role"] == "assistant" for m in messages[at + 1 :]):
        raise DataError(
            f"{where}, messages[{at}]: the only assistant turn has no user message before it, so it has no prompt."
        )
    notes.append(_GREETING)
    return (*messages[:at], messages[at] | {"weight": 0}, *messages[at + 1 :])
