"""The safetensors header: names, types, shapes and offsets of the tensors, checked to the last byte.

Format: 8 bytes little-endian length N, N bytes of JSON, then the tensors' bytes without gaps
(github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from adapters.artifact.files import WEIGHTS, parse_json, printable
from adapters.errors import ArtifactRefused

_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_HEADER_MAX_BYTES = 16 << 20
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
    entries = parse_json(text, f"the header of {WEIGHTS}")
    entries.pop("__metadata__", None)
    if not entries:
        raise ArtifactRefused(f"{WEIGHTS} holds no tensors; save the adapter again.")
    tensors = [_parse(name, entry, 8 + length) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    _check_offsets(tensors, 8 + length, size_bytes)
    return {tensor.name: tensor for tensor in tensors}


def _parse(name: str, entry: Any, offset: int) -> Tensor:
    shown = printable(name)
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
            f"Tensor {shown} has type {printable(dtype)}; save the adapter as F32, F16 or BF16."
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
