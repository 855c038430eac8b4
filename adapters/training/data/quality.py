"""The quality of training data: its size, near-duplicate texts, control tokens, tool calls that do not survive."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from adapters.training.data.chat_template import Conversation, Renderer, Turn
from adapters.training.data.tool_calls import expected_calls, parse_calls

FEW_CHATS, GOOD_CHATS = 100, 1000

_WORD = re.compile(r"\w+")
_BANDS, _ROWS = 16, 4  # misses one pair in 5,000 at a resemblance of 0.8
_PRIME = (1 << 31) - 1
_PER_BUCKET = 4


def size_advice(chats: int) -> str:
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

    The server also tokenises such text to real control tokens. The labels stay correct, but the turn looks broken.
    """
    tokens = [t for t in control_tokens if t]
    return sum(
        any(token in str(message.get("content") or "") for token in tokens)
        for conversation in conversations
        for message in conversation.messages
    )


class NearDuplicates:
    """Texts by number, indexed by MinHash; ``find`` gives the number of an earlier, similar text.

    Candidates are compared exactly, so that every match has at least the given resemblance (Jaccard similarity of
    the sets of three-word runs).
    """

    def __init__(self, resemblance: float = 0.8) -> None:
        self._resemblance = resemblance
        self._known: list[frozenset[int]] = []
        self._buckets: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
        draw = np.random.default_rng(0)
        self._factors = draw.integers(1, _PRIME, _BANDS * _ROWS, dtype=np.int64)[:, None]
        self._offsets = draw.integers(0, _PRIME, _BANDS * _ROWS, dtype=np.int64)[:, None]

    def find(self, text: str) -> int | None:
        """The number of an added text that is similar to ``text``; None if there is none."""
        return self._find(_shingles(text))

    def add(self, text: str) -> int | None:
        """Add ``text`` under the next number; returns the number of an earlier similar text."""
        shingles = _shingles(text)
        earlier = self._find(shingles)
        self._known.append(shingles)
        for key in self._keys(shingles):
            if len(self._buckets[key]) < _PER_BUCKET:
                self._buckets[key].append(len(self._known) - 1)
        return earlier

    def _find(self, shingles: frozenset[int]) -> int | None:
        tried: set[int] = set()
        for key in self._keys(shingles):
            for number in self._buckets.get(key, ()):
                if number in tried:
                    continue
                tried.add(number)
                known = self._known[number]
                if len(known & shingles) >= self._resemblance * len(known | shingles):
                    return number
        return None

    def _keys(self, shingles: frozenset[int]) -> list[tuple[int, bytes]]:
        values: NDArray[np.int64] = np.fromiter(shingles, dtype=np.int64)[None, :]
        least = ((self._factors * values + self._offsets) % _PRIME).min(axis=1)
        return [(band, least[band * _ROWS : (band + 1) * _ROWS].tobytes()) for band in range(_BANDS)]


def _shingles(text: str) -> frozenset[int]:
    """Hashes of all runs of three words; of the whole text if it is shorter."""
    words = _WORD.findall(text.lower())
    runs = [" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))]
    return frozenset(zlib.crc32(run.encode()) % _PRIME for run in runs)
