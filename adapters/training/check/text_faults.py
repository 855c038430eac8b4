"""Faults in the texts of one chat: loops, wrong decoding, broken JSON, other languages, standard phrases."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

from adapters.training.check.faults import Fault
from adapters.training.check.languages import language_of
from adapters.training.check.private_data import personal_data_in, secrets_in
from adapters.training.data.chat_template import Conversation

_LOOP_WORDS = 24  # shorter answers do not loop
_VARIED = 0.5  # share of different words above which a text does not loop
_LOOP_COPIES, _LONGEST_PASSAGE = 4, 40
_RUN = re.compile(r"(\S{1,20}?)\1{30,}")  # one long word of repeated characters
# The first bytes of UTF-8 sequences, read as Windows-1252 or Latin-1, and what can follow them.
_MISREAD = re.compile(
    "[\u00c2\u00c3\u00c5\u00d0\u00d1\u00e2\u00e3\u00ef\u00f0][\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u2010-\u2122]+"
)
_FENCE = re.compile(r"```json\s*\n(.*?)```", re.DOTALL)
_TALK = re.compile(
    r"\bas an? (?:ai|artificial intelligence)(?: language)? (?:model|assistant)\b|\bi am chatgpt\b|\bi'm chatgpt\b"
    r"|\bmy knowledge cutoff\b|\b(?:trained|developed|created) by openai\b",
    re.IGNORECASE,
)


def text_faults(chat: Conversation) -> Iterator[Fault]:
    """The faults in the texts of ``chat``."""
    question = ""
    for at, message in enumerate(chat.messages):
        text = message["content"]
        place = f"Line {chat.line}, messages[{at}]"
        if wrong := misread(text):
            yield Fault("mojibake", f"{place}: {wrong!r}")
        if kinds := secrets_in(text):
            yield Fault("secret", f"{place}: {', '.join(kinds)}")
        if kinds := personal_data_in(text):
            yield Fault("personal_data", f"{place}: {', '.join(kinds)}")
        if message["role"] in ("user", "tool") and not text.strip():
            yield Fault("empty_message", place)
        if message["role"] == "user":
            question = text
        elif message["role"] == "assistant" and text:
            yield from _answer_faults(text, question, place)
    if chat.messages[-1]["role"] != "assistant":
        yield Fault("ends_with_user", f"Line {chat.line}")


def _answer_faults(text: str, question: str, place: str) -> Iterator[Fault]:
    if (passage := looped(text)) is not None:
        yield Fault("loop", f"{place}: {passage[:60]!r}")
    if wrong := broken_json(text):
        yield Fault("broken_json", f"{place}: {wrong}")
    if found := _TALK.search(text):
        yield Fault("assistant_talk", f"{place}: {found.group()!r}")
    asked, answered = language_of(question), language_of(text)
    if asked and answered and asked != answered:
        yield Fault("other_language", f"{place}: {answered} after a question in {asked}")


def misread(text: str) -> str | None:
    """The first passage of ``text`` that is UTF-8 read in another encoding; None if there is none."""
    if text.isascii():
        return None
    at = text.find("\ufffd")
    if at >= 0:
        return text[max(0, at - 10) : at + 10]
    for found in _MISREAD.finditer(text):
        for encoding in ("cp1252", "latin-1"):
            try:
                found.group().encode(encoding).decode("utf-8")
            except UnicodeError:
                continue
            return text[max(0, found.start() - 10) : found.end() + 10]
    return None


def looped(text: str) -> str | None:
    """The passage that ``text`` repeats at least four times in a row, over 24 words; None if there is none."""
    if len(text) > 30 and (run := _RUN.search(text)) and run.group(1).strip("-=_*.#~ "):
        return run.group(1)
    words = text.split()
    if len(words) < _LOOP_WORDS or len(set(words)) > _VARIED * len(words):
        return None
    # A passage of n words is repeated where the word n further on is the same, many times in a row.
    for size in _likely_sizes(words):
        needed, run_length = max(_LOOP_COPIES * size, _LOOP_WORDS) - size, 0
        for at in range(len(words) - size):
            run_length = run_length + 1 if words[at] == words[at + size] else 0
            if run_length >= needed:
                passage = words[at + 1 : at + 1 + size]
                return " ".join(passage) if any(any(c.isalnum() for c in word) for word in passage) else None
    return None


def broken_json(text: str) -> str | None:
    """Why an answer that looks like JSON, or a block that is marked as JSON, is none; None if it is."""
    stripped = text.strip()
    whole = stripped[:1] + stripped[-1:] in ("{}", "[]") and (
        stripped[1:].lstrip()[:1] in ('"', "{", "[", "'") and (":" in stripped or stripped[0] == "[")
    )
    for body in [stripped] if whole else _FENCE.findall(text):
        try:
            json.loads(body)
        except json.JSONDecodeError as error:
            return f"{error.msg} at column {error.colno} of line {error.lineno}"
        except (ValueError, RecursionError):
            return "it cannot be read"
    return None


def _likely_sizes(words: list[str]) -> list[int]:
    """The most common distances between two places of the same word."""
    last: dict[str, int] = {}
    distances: Counter[int] = Counter()
    for at, word in enumerate(words):
        if word in last and at - last[word] <= _LONGEST_PASSAGE:
            distances[at - last[word]] += 1
        last[word] = at
    return sorted(size for size, _ in distances.most_common(3))
