"""Encodes a rendered conversation whose caller's text has marks in its control tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from adapters.control_tokens.marking import MarkedText


class Encoded(NamedTuple):
    """Token ids and, for each, the characters of the unmarked text that it stands for (start, end)."""

    ids: list[int]
    spans: list[tuple[int, int]]

    def extend(self, other: Encoded) -> None:
        """Append the tokens of `other`."""
        self.ids.extend(other.ids)
        self.spans.extend(other.spans)


class Encoder:
    """Encodes with one tokenizer.

    NOTE: a tokenizer that writes something before the first piece of a text only (Metaspace with
    `prepend_scheme: first`) writes it before each stretch that is encoded anew.
    """

    def __init__(self, tokenizer: Any, control_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._control_ids = control_ids

    def encode(self, text: MarkedText, *, add_special_tokens: bool) -> Encoded:
        """The tokens of `text` without its marks; only control tokens without a mark are control tokens."""
        if self._without_control_tokens is None:
            return self._encode_parts(text.split(text.mark), 0)
        found = self._tokenizer(str(text), add_special_tokens=add_special_tokens, return_offsets_mapping=True)
        spans = [(int(start), int(end)) for start, end in found["offset_mapping"]]
        return self._encode_stretches(str(text), text.mark, Encoded(list(found["input_ids"]), spans))

    def _encode_stretches(self, text: str, mark: str, found: Encoded) -> Encoded:
        """The tokens `found`, with those between two control tokens made anew where the text has a mark there."""
        encoded, stretch = Encoded([], []), Encoded([], [])
        begin = marks = 0
        # Tokens that the tokenizer itself adds have no place in the text.
        last = max((at for at, span in enumerate(found.spans) if span != (0, 0)), default=-1)
        for at, (token, (start, end)) in enumerate(zip(*found, strict=True)):
            if token not in self._control_ids:
                stretch.ids.append(token)
                stretch.spans.append((start - marks, end - marks))
                continue
            if at > last:
                start = end = len(text)
            encoded.extend(self._encode_stretch(text[begin:start], mark, begin - marks) or stretch)
            marks += text.count(mark, begin, start)
            encoded.ids.append(token)
            encoded.spans.append((start - marks, end - marks))
            stretch, begin = Encoded([], []), end
        encoded.extend(self._encode_stretch(text[begin:], mark, begin - marks) or stretch)
        return encoded

    def _encode_stretch(self, written: str, mark: str, at: int) -> Encoded | None:
        """The tokens of text that begins at the character `at` of the unmarked text; None: it has no mark."""
        if mark not in written:
            return None
        found = self._without_control_tokens.encode(written.replace(mark, ""), add_special_tokens=False)
        if self._control_ids.isdisjoint(found.ids):
            return Encoded(found.ids, [(start + at, end + at) for start, end in found.offsets])
        # Some vocabularies have control tokens among their ordinary pieces; divided, they are no such piece.
        return self._encode_parts(written.split(mark), at)

    def _encode_parts(self, parts: Iterable[str], at: int) -> Encoded:
        encoded = Encoded([], [])
        for part in parts:
            ids = self._tokenizer.encode(part, add_special_tokens=False)
            encoded.extend(Encoded(ids, [(at, at + len(part))] * len(ids)))
            at += len(part)
        return encoded

    @cached_property
    def _without_control_tokens(self) -> Any:
        """The tokenizer without its control tokens, made when it is first needed; None for one written in Python."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        content = json.loads(backend.to_str())
        content["added_tokens"] = [t for t in content["added_tokens"] if t["id"] not in self._control_ids]
        content["truncation"] = content["padding"] = None
        return Tokenizer.from_str(json.dumps(content))
