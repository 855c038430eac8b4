"""The safetensors header: names, types, shapes and offsets of the tensors, checked to the last byte.

Format: 8 bytes little-endian length N, N bytes of JSON, then the tensors' bytes without gaps
(github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import heapq
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from json import decoder
from typing import Any, BinaryIO

from adapters.artifact.files import DECODER, WEIGHTS, printable_value
from adapters.errors import ArtifactRefused

_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
#: A tensor's entry has some 160 bytes, and an adapter of 60 layers with 256 experts 90,000 tensors.
_HEADER_MAX_BYTES = 16 << 20
#: Characters of one entry: enough for a tensor's, and the most that `__metadata__` may have.
_ENTRY_CHARACTERS = (1 << 10, 256 << 10)
#: Tensors that are sorted in one piece.
_SORTED = 8192
_name = decoder.scanstring  # type: ignore[attr-defined]
_SPACE = re.compile(r"[ \t\n\r]*")
_DAMAGED = f"{WEIGHTS} is damaged"
_AGAIN = "copy or save the adapter again"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the file; `start` and `end` count from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(file: BinaryIO, size_bytes: int) -> dict[str, Tensor]:
    """All tensors by name, in order of their offsets. Raises: ArtifactRefused."""
    if size_bytes < 10:
        raise ArtifactRefused(f"{_DAMAGED}: it has only {size_bytes} bytes; {_AGAIN}.")
    (length,) = struct.unpack("<Q", file.read(8))
    if not 2 <= length <= min(size_bytes - 8, _HEADER_MAX_BYTES):
        raise ArtifactRefused(f"{_DAMAGED} or no safetensors file: its header cannot be read; {_AGAIN}.")
    text = file.read(length)
    if text[:1] != b"{":
        raise ArtifactRefused(f"{_DAMAGED} or no safetensors file: its header cannot be read; {_AGAIN}.")
    found = _tensors(text, 8 + length)
    if not found:
        raise ArtifactRefused(f"{WEIGHTS} holds no tensors; save the adapter again.")
    tensors = _in_order(found)
    _check_offsets(tensors, 8 + length, size_bytes)
    return {tensor.name: tensor for tensor in tensors}


def _tensors(text: bytes, offset: int) -> list[Tensor]:
    """The entries of the header, parsed one by one; the tensors' bytes begin at `offset`. Raises: ArtifactRefused.

    NOTE: Python's parser keeps the interpreter's lock until its end, 0.3 s for the largest header in one piece. So
    does the garbage collector, which has little to do where no entry is kept. The event loop would wait for both,
    although this runs in a thread.
    """
    names: set[str] = set()
    found: list[Tensor] = []
    fault: ArtifactRefused | None = None  # told if all of it is JSON
    try:
        for name, entry in _each(text.decode()):
            if name in names:
                raise ValueError("duplicate name")
            names.add(name)
            if name == "__metadata__" or fault is not None:
                continue
            try:
                found.append(_parse(name, entry, offset))
            except ArtifactRefused as error:
                fault = error
    except (ValueError, IndexError, RecursionError) as error:
        raise ArtifactRefused(
            f"the header of {WEIGHTS} is not readable as JSON; save the adapter again."
        ) from error
    if fault is not None:
        raise fault
    return found


def _each(text: str) -> Iterator[tuple[str, Any]]:
    """The names and values of a JSON object. Raises: ValueError, IndexError: it is none."""
    at = _after_space(text, 1)
    closed = text[at] == "}"
    while not closed:
        if text[at] != '"':
            raise ValueError("no name")
        name, at = _name(text, at + 1)
        at = _after_space(text, at)
        if text[at] != ":":
            raise ValueError("no colon")
        value, at = _value(text, _after_space(text, at + 1))
        yield name, value
        at = _after_space(text, at)
        closed = text[at] == "}"
        if not closed:
            if text[at] != ",":
                raise ValueError("no comma")
            at = _after_space(text, at + 1)
    if _after_space(text, at + 1) != len(text):
        raise ValueError("text after the object")


def _value(text: str, at: int) -> tuple[Any, int]:
    few, many = _ENTRY_CHARACTERS
    try:
        value, length = DECODER.raw_decode(text[at : at + few])
    except ValueError:
        value, length = DECODER.raw_decode(text[at : at + many])
    return value, at + length


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _in_order(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors by their offsets; many are sorted in parts, because a sort keeps the interpreter's lock, too."""
    parts = (tensors[at : at + _SORTED] for at in range(0, len(tensors), _SORTED))
    return list(heapq.merge(*(sorted(part, key=_place) for part in parts), key=_place))


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.start, tensor.end


def _parse(name: str, entry: Any, offset: int) -> Tensor:
    shown = printable_value(name)
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        start, end = entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise ArtifactRefused(f"{_DAMAGED}: the entry of tensor {shown} is not valid; {_AGAIN}.") from error
    numbers = (*shape, start, end)
    if not isinstance(entry, Mapping) or any(type(n) is not int or not 0 <= n < 2**48 for n in numbers):
        raise ArtifactRefused(f"{_DAMAGED}: the entry of tensor {shown} is not valid; {_AGAIN}.")
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise ArtifactRefused(
            f"Tensor {shown} has type {printable_value(dtype)}; save the adapter as F32, F16 or BF16."
        )
    if len(shape) > 8 or end - start != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise ArtifactRefused(f"{_DAMAGED}: the size of tensor {shown} does not fit its shape; {_AGAIN}.")
    return Tensor(name, dtype, shape, offset + start, offset + end)


def _check_offsets(tensors: list[Tensor], start: int, size_bytes: int) -> None:
    for tensor in tensors:
        if tensor.start != start:
            raise ArtifactRefused(f"{_DAMAGED}: tensors overlap or leave gaps; {_AGAIN}.")
        start = tensor.end
    if start > size_bytes:
        raise ArtifactRefused(
            f"{WEIGHTS} is truncated: it has {size_bytes} bytes and should have {start}; {_AGAIN}."
        )
    if start < size_bytes:
        raise ArtifactRefused(f"{_DAMAGED}: {size_bytes - start} bytes follow the last tensor; {_AGAIN}.")
