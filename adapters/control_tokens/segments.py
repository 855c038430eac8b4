"""Encodes a text piece by piece between its control tokens, and remembers the pieces.

A tokenizer that treats each stretch between control tokens alone gives the same ids so. The turns of a chat repeat
what was before them, and chats repeat their system message and tools: most pieces were encoded a moment ago.
"""

from __future__ import annotations

import json
import re
from typing import Any

_REMEMBERED = 1024  # pieces; the turns of a chat and the system messages in use need far fewer
#: Steps before the model that look at one stretch alone, whatever is before it.
_LOCAL_STEPS = ("ByteLevel", "Split", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit")
_LOCAL_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase")


class SegmentEncoder:
    """Encodes with one tokenizer of the package tokenizers; ``of`` says whether it can.

    Args:
        backend: the ``tokenizers.Tokenizer``.
        control_ids: the added tokens and their ids.
    """

    def __init__(self, backend: Any, control_ids: dict[str, int]) -> None:
        self._backend = backend
        self._ids = control_ids
        longest_first = sorted(control_ids, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._known: dict[str, list[int]] = {}

    @classmethod
    def of(cls, tokenizer: Any) -> SegmentEncoder | None:
        """An encoder that gives the ids of ``tokenizer.encode(text, add_special_tokens=False)``; None if unsure."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or getattr(tokenizer, "split_special_tokens", False):
            return None
        form = json.loads(backend.to_str())
        added = form["added_tokens"]
        plain = all(
            not token[f] for token in added for f in ("lstrip", "rstrip", "normalized", "single_word")
        )
        steps = _steps(form["pre_tokenizer"], "pretokenizers")
        local = all(s["type"] in _LOCAL_STEPS and not s.get("add_prefix_space") for s in steps)
        kept = all(s["type"] in _LOCAL_NORMALIZERS for s in _steps(form["normalizer"], "normalizers"))
        if not (added and plain and local and kept) or form["truncation"] or form["padding"]:
            return None
        return cls(backend, {token["content"]: token["id"] for token in added})

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of ``text``; control tokens in it are recognised."""
        ids: list[int] = []
        for at, piece in enumerate(self._split.split(text)):
            if at % 2:
                ids.append(self._ids[piece])
            elif piece:
                ids += self._known.get(piece) or self._encode(piece)
        return tuple(ids)

    def _encode(self, piece: str) -> list[int]:
        [found] = self._backend.encode_batch_fast([piece], add_special_tokens=False)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[piece] = ids = list(found.ids)
        return ids


def _steps(step: Any, name: str) -> list[Any]:
    """The steps of a tokenizer's stage: none, one, or those of a sequence."""
    if step is None:
        return []
    return [inner for s in step[name] for inner in _steps(s, name)] if step["type"] == "Sequence" else [step]
