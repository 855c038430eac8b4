"""Texts that nearly repeat one another: MinHash with banding, each hit verified exactly.

A. Broder, "On the resemblance and containment of documents" (1997). Resemblance is the Jaccard index of
the sets of three words in a row. Work grows with the number of texts, not with its square.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")
_BANDS, _ROWS = 16, 4  # at a resemblance of 0.8 a pair is missed once in 5,000
_PRIME = (1 << 31) - 1
_PER_BUCKET = 4


def shingles(text: str) -> frozenset[int]:
    """Hashes of every three words in a row; of the whole text where it is shorter."""
    words = _WORD.findall(text.lower())
    runs = [" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))]
    return frozenset(zlib.crc32(run.encode()) % _PRIME for run in runs)


class NearTexts:
    """Texts by number; ``find`` gives the number of an earlier one that resembles a text."""

    def __init__(self, resemblance: float = 0.8) -> None:
        self._resemblance = resemblance
        self._known: list[frozenset[int]] = []
        self._buckets: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
        draw = np.random.default_rng(0)
        self._factors = draw.integers(1, _PRIME, _BANDS * _ROWS, dtype=np.int64)[:, None]
        self._offsets = draw.integers(0, _PRIME, _BANDS * _ROWS, dtype=np.int64)[:, None]

    def find(self, text: str) -> int | None:
        """The number of a text that was added and resembles ``text``; None without one."""
        return self._find(shingles(text))

    def add(self, text: str) -> int | None:
        """Add ``text`` under the next number; the number of an earlier one that it resembles."""
        found = shingles(text)
        earlier = self._find(found)
        self._known.append(found)
        for key in self._keys(found):
            if len(self._buckets[key]) < _PER_BUCKET:
                self._buckets[key].append(len(self._known) - 1)
        return earlier

    def _find(self, wanted: frozenset[int]) -> int | None:
        tried: set[int] = set()
        for key in self._keys(wanted):
            for number in self._buckets.get(key, ()):
                if number in tried:
                    continue
                tried.add(number)
                known = self._known[number]
                if len(known & wanted) >= self._resemblance * len(known | wanted):
                    return number
        return None

    def _keys(self, found: frozenset[int]) -> list[tuple[int, bytes]]:
        values: NDArray[np.int64] = np.fromiter(found, dtype=np.int64)[None, :]
        least = ((self._factors * values + self._offsets) % _PRIME).min(axis=1)
        return [(band, least[band * _ROWS : (band + 1) * _ROWS].tobytes()) for band in range(_BANDS)]
