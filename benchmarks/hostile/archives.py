"""Adapters that take long to unpack or to check."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from typing import Final

_MIB: Final = 1024**2
#: A little below the largest header that is read, 16 MiB.
_HEADER_BYTES: Final = 16 * _MIB - 4096


def of_zeros() -> bytes:
    """A gzip'ed tar archive whose one file is 256 MiB of zeros."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as compressed:
        entry = tarfile.TarInfo("adapter_model.safetensors")
        entry.size = 256 * _MIB
        compressed.write(entry.tobuf())
        for _ in range(256):
            compressed.write(bytes(_MIB))
        compressed.write(bytes(1024))
    return packed.getvalue()


def of_header(header: bytes) -> bytes:
    """A gzip'ed tar archive of an adapter whose weights begin with this header."""
    weights = struct.pack("<Q", len(header)) + header
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for name, content in (
            (
                "adapter_config.json",
                json.dumps({"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}).encode(),
            ),
            ("adapter_model.safetensors", weights),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def many_values() -> bytes:
    """A header of one entry with as many values as fit."""
    return b'{"a":[' + b"1," * ((_HEADER_BYTES - 16) // 2) + b"1]}"


def many_tensors() -> bytes:
    """A header of 150,000 tensors, the last of which comes first in the file."""
    entries = {
        f"layers.{number}.lora_A": {
            "dtype": "F32",
            "shape": [1],
            "data_offsets": [4 * number, 4 * number + 4],
        }
        for number in reversed(range(150_000))
    }
    return json.dumps(entries).encode()
