"""Scans the weights in chunks for NaN, infinities and updates that are all zero.

The bits are read as integers, because numpy has no bfloat16: a value is NaN or infinite if and only if all bits of
its exponent are set, and zero if and only if no bit but the sign is set.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np

from adapters.artifact.files import WEIGHTS
from adapters.artifact.header import Tensor
from adapters.artifact.tensors import Pair
from adapters.errors import ArtifactRefused

_CHUNK_BYTES = 4 << 20  # fits into the CPU's caches better than whole tensors
_BITS: dict[str, tuple[Any, int, int]] = {  # dtype: integer, exponent bits, all bits but the sign
    "F32": (np.uint32, 0x7F80_0000, 0x7FFF_FFFF),
    "F16": (np.uint16, 0x7C00, 0x7FFF),
    "BF16": (np.uint16, 0x7F80, 0x7FFF),
}


def scan_weights(file: BinaryIO, pairs: Iterable[Pair]) -> None:
    """Read every weight once. Raises: ArtifactRefused: a NaN or infinity, or all updates are zero."""
    changes = False
    for pair in pairs:
        nonzero = [_scan(file, tensor) for tensor in (pair.a, pair.b)]
        changes = changes or all(nonzero)
    if not changes:
        raise ArtifactRefused(
            "All of lora_B (or lora_A) is zero, so the adapter changes nothing; "
            "it was saved before training or its gradients never flowed."
        )


def _scan(file: BinaryIO, tensor: Tensor) -> bool:
    """Whether a value is not zero. Raises: ArtifactRefused: a value is not finite."""
    kind, exponent, magnitude = _BITS[tensor.dtype]
    nonzero = False
    file.seek(tensor.start)
    left = tensor.end - tensor.start
    while left:
        data = file.read(min(left, _CHUNK_BYTES))
        if not data or len(data) % np.dtype(kind).itemsize:
            raise ArtifactRefused(f"{WEIGHTS} is truncated; copy or save the adapter again.")
        left -= len(data)
        bits = np.frombuffer(data, dtype=kind) & kind(magnitude)
        largest = bits.max()
        nonzero = nonzero or bool(largest)
        # Without the sign bit, integers have the order of the magnitudes; infinity and then NaN are the largest.
        if largest >= exponent:
            what = "an infinity" if largest == exponent else "NaN"
            raise ArtifactRefused(
                f"{tensor.name} contains {what}; training diverged, take an earlier checkpoint or retrain."
            )
    return nonzero
