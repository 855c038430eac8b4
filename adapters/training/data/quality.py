"""The quality of training data: its size, near-duplicate texts, control tokens, tool calls that do not survive."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapters.training.data.chat_template import Conversation, Renderer, Turn
from adapters.training.data.tool_calls import expected_calls, parse_calls

FEW_CHATS, GOOD_CHATS = 100, 1000

_WORD = re.compile(r"\w+")
_BANDS, _ROWS = 16, 4  # misses one pair in 5,000 at a resemblance of 0.8
_PER_BUCKET = 4
_DRAW = np.random.default_rng(0)
# Multiply-shift hashes: 64-bit products without overflow checks, of which the upper half is kept. A remainder of a
# prime would take several times as long.
_FACTORS = _DRAW.integers(0, 1 << 63, _BANDS * _ROWS, dtype=np.uint64)[:, None] * np.uint64(2) + np.uint64(1)
_OFFSETS = _DRAW.integers(0, 1 << 63, _BANDS * _ROWS, dtype=np.uint64)[:, None]
_UPPER_HALF = np.uint64(32)
_POSITIONS = _FACTORS[:3, 0]  # of a word in its run


def dataset_size_advice(chats: int) -> str:
    """What this number of chats is enough for."""
    good = (
        f"About {GOOD_CHATS:,} good chats (correct, varied, each answered as you want it) are usually enough for a "
        "voice, a format or a set of functions; they do not add much new knowledge to a model."
    )
    if chats < FEW_CHATS:
        return f"{chats} chats are few: with fewer than {FEW_CHATS}, an adapter mostly memorises them. {good}"
    return (
        f"{chats} chats. {good}"
        if chats < GOOD_CHATS
        else f"{chats} chats are enough for a voice or a format"
    )


def calls_survive(turn: Turn, renderer: Renderer) -> bool:
    """Whether the server's hermes parser reads a turn's calls back as they are in the data."""
    return parse_calls(renderer.tokenizer.decode(turn.target)) == expected_calls(turn.answer)


def count_control_tokens(conversations: Iterable[Conversation], control_tokens: Iterable[str]) -> int:
    """How many messages have a control token in their text.

    Server and trainer encode it as text (`adapters.control_tokens`), so nothing breaks; but such data was often
    rendered with a chat template before, and the adapter would learn to write the control tokens as text.
    """
    tokens = [t for t in control_tokens if t]
    return sum(
        any(token in str(message.get("content") or "") for token in tokens)
        for conversation in conversations
        for message in conversation.messages
    )


class Fingerprint(NamedTuple):
    """What ``NearDuplicates`` knows of a text: its three-word runs, hashed and sorted, and its MinHash per band."""

    shingles: NDArray[np.uint64]
    keys: tuple[bytes, ...]

    def resembles(self, other: Fingerprint, resemblance: float) -> bool:
        """Whether the Jaccard similarity of the three-word runs is at least ``resemblance``."""
        small, large = sorted((len(self.shingles), len(other.shingles)))
        if small < resemblance * large:
            return False
        common = len(np.intersect1d(self.shingles, other.shingles, assume_unique=True))
        return common >= resemblance * (small + large - common)


def fingerprint(text: str) -> Fingerprint:
    """The fingerprint of ``text``; case and punctuation do not count."""
    shingles = _shingles(text)
    hashed = (_FACTORS * shingles[None, :] + _OFFSETS) >> _UPPER_HALF
    least = hashed.min(axis=1)
    data = least.tobytes()
    size = len(data) // _BANDS
    return Fingerprint(shingles, tuple(data[band * size : (band + 1) * size] for band in range(_BANDS)))


class NearDuplicates:
    """Texts by number, indexed by MinHash; ``find`` gives the number of an earlier, similar text.

    Candidates are compared exactly, so that every match has at least the given resemblance (Jaccard similarity of
    the sets of three-word runs).
    """

    def __init__(self, resemblance: float = 0.8) -> None:
        self._resemblance = resemblance
        self._known: list[Fingerprint] = []
        self._buckets: list[dict[bytes, list[int]]] = [{} for _ in range(_BANDS)]

    def find(self, text: Fingerprint) -> int | None:
        """The number of an added text that is similar to ``text``; None if there is none."""
        tried: set[int] = set()
        for bucket, key in zip(self._buckets, text.keys, strict=True):
            for number in bucket.get(key, ()):
                if number in tried:
                    continue
                tried.add(number)
                if text.resembles(self._known[number], self._resemblance):
                    return number
        return None

    def add(self, text: Fingerprint) -> int | None:
        """Add ``text`` under the next number; returns the number of an earlier similar text."""
        earlier = self.find(text)
        self._known.append(text)
        for bucket, key in zip(self._buckets, text.keys, strict=True):
            numbers = bucket.setdefault(key, [])
            if len(numbers) < _PER_BUCKET:
                numbers.append(len(self._known) - 1)
        return earlier


def _shingles(text: str) -> NDArray[np.uint64]:
    """Hashes of all runs of three words, sorted; of the whole text if it is shorter."""
    words = np.array([zlib.crc32(word.encode()) for word in _WORD.findall(text.lower())], dtype=np.uint64)
    if len(words) < 3:
        words = np.pad(words, (0, 3 - len(words)))
    first, second, third = _POSITIONS
    return np.unique(first * words[:-2] + second * words[1:-1] + third * words[2:])
