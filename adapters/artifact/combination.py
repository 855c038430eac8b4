"""Combines stored adapters into one, without training: the sum of their updates, each times a scale.

The update of a module is s·B·A with s = alpha / r (rsLoRA: alpha / √r). So the sum over the adapters is one product
of joined factors: the A stacked, and each B times its scale and s beside the others. Its rank is the sum of theirs.
PEFT calls this `add_weighted_adapter(combination_type="cat")`. A module that an adapter lacks has only the others.

A truncated singular value decomposition of each module's sum gives a lower rank, with the smallest possible error
(Eckart and Young, 1936).
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from adapters.artifact.config import LoraConfig, read_config
from adapters.artifact.files import CONFIG, WEIGHTS, open_plain, read_json
from adapters.artifact.header import Tensor, read_header
from adapters.artifact.patterns import as_patterns
from adapters.artifact.shape import BaseShape
from adapters.artifact.tensors import module_of
from adapters.errors import ArtifactRefused

Factor = NDArray[np.float32]
_ITEM_BYTES = 4  # of the result, which is F32: scaled values of 16 bits would be rounded once more
_ANY_RANK = 65536


@dataclass(frozen=True, slots=True)
class ScaledArtifact:
    """A verified folder of the store, and what its update is multiplied by."""

    folder: Path
    scale: float


@dataclass(frozen=True, slots=True)
class Combination:
    """The result: its largest rank, and the relative error of its updates (Frobenius norm; 0 without a reduction)."""

    rank: int
    relative_error: float


@dataclass(frozen=True, slots=True)
class _Side:
    """One adapter's factors of a module, and what their product is multiplied by."""

    file: BinaryIO
    a: Tensor
    b: Tensor
    factor: float


def combine(
    parts: Sequence[ScaledArtifact],
    into: Path,
    *,
    base: BaseShape,
    max_lora_rank: int,
    max_bytes: int,
    reduce_rank: int | None = None,
    stop: Callable[[], None] = lambda: None,
) -> Combination:
    """Write the combination into the folder `into`. Blocks; the memory in use is that of one module's factors.

    Args:
        parts: what to add up.
        into: gets the configuration and the weights.
        base: the base model's sizes.
        max_lora_rank: of the engine.
        max_bytes: of the weights that are written.
        reduce_rank: the highest rank of the result; None: the sum of the ranks, which is exact.
        stop: called before each module; it raises to end the work.

    Raises: ArtifactRefused: its rank or its size is above the limit.
    """
    with ExitStack() as stack:
        opened = [(stack.enter_context(open_plain(part.folder / WEIGHTS)), part) for part in parts]
        modules = _modules([(file, part, _config(part, base)) for file, part in opened])
        ranks = {module: sum(side.a.shape[0] for side in sides) for module, sides in modules.items()}
        if reduce_rank is not None:
            ranks = {module: min(rank, reduce_rank) for module, rank in ranks.items()}
        _check_rank(max(ranks.values()), max_lora_rank, reduced=reduce_rank is not None)
        header = _header(modules, ranks, max_bytes)
        (into / CONFIG).write_text(json.dumps(_blend_config(ranks)), encoding="utf-8")
        with (into / WEIGHTS).open("xb") as result:
            result.write(header)
            error = _write(result, modules, ranks, stop)
        return Combination(max(ranks.values()), error)


def _config(part: ScaledArtifact, base: BaseShape) -> LoraConfig:
    return read_config(read_json(part.folder / CONFIG), _ANY_RANK, base.lora_modules())


def _modules(
    opened: Sequence[tuple[BinaryIO, ScaledArtifact, LoraConfig]],
) -> dict[str, list[_Side]]:
    """The factors of each module, in the order of the adapters."""
    modules: dict[str, list[_Side]] = {}
    for file, part, config in opened:
        found: dict[str, list[Tensor]] = {}
        for tensor in read_header(file, os.fstat(file.fileno()).st_size).values():
            found.setdefault(module_of(tensor.name), []).append(tensor)
        for module, tensors in found.items():
            a, b = sorted(tensors, key=lambda tensor: tensor.name)  # "…lora_A…" is before "…lora_B…"
            scaling = config.alpha_of(module) / (math.sqrt(a.shape[0]) if config.rslora else a.shape[0])
            modules.setdefault(module, []).append(_Side(file, a, b, part.scale * scaling))
    return dict(sorted(modules.items()))


def _check_rank(rank: int, limit: int, *, reduced: bool) -> None:
    if rank <= limit:
        return
    if reduced:
        raise ArtifactRefused(f"Rank {rank} is above --max-lora-rank {limit}; reduce it to {limit} or less.")
    raise ArtifactRefused(
        f"The ranks of these adapters add up to {rank}, above --max-lora-rank {limit}; add fewer of them, restart "
        f"with a larger --max-lora-rank, or make a version with `loragate adapter blend --reduce-rank {limit}`, "
        "which is not exact and prints its error."
    )


def _header(modules: Mapping[str, Sequence[_Side]], ranks: Mapping[str, int], max_bytes: int) -> bytes:
    """The header of the result's safetensors file. Raises: ArtifactRefused: the file would be too large."""
    entries: dict[str, Any] = {}
    end = 0
    for module, sides in modules.items():
        a, b, rank = sides[0].a, sides[0].b, ranks[module]
        for name, shape in ((a.name, (rank, a.shape[1])), (b.name, (b.shape[0], rank))):
            start, end = end, end + math.prod(shape) * _ITEM_BYTES
            entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, end)}
    if end > max_bytes:
        raise ArtifactRefused(
            f"The blend would have {end} bytes, above the limit of {max_bytes}; reduce its rank, or restart with a "
            "larger --max-adapter-bytes."
        )
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


def _blend_config(ranks: Mapping[str, int]) -> dict[str, Any]:
    """The configuration, with alpha = r everywhere: all scales are in the factors."""
    largest = max(ranks.values())
    others = {module: rank for module, rank in ranks.items() if rank != largest}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": largest,
        "lora_alpha": largest,
        "target_modules": list(ranks),  # whole paths: not every layer needs to have each of them
    }
    if others:
        config |= {"rank_pattern": as_patterns(others), "alpha_pattern": as_patterns(others)}
    return config


def _write(
    file: BinaryIO,
    modules: Mapping[str, Sequence[_Side]],
    ranks: Mapping[str, int],
    stop: Callable[[], None],
) -> float:
    """Write the factors of all modules; returns the relative error."""
    whole = lost = 0.0
    for module, sides in modules.items():
        stop()
        a = np.concatenate([_read(side.file, side.a) for side in sides], axis=0)
        scaled = (_read(side.file, side.b) * np.float32(side.factor) for side in sides)
        b = np.concatenate(list(scaled), axis=1)
        if a.shape[0] > ranks[module]:
            a, b, energy, dropped = _reduce(a, b, ranks[module])
            whole, lost = whole + energy, lost + dropped
        else:
            whole += _energy(a, b)
        for values in (a, b):
            file.write(np.ascontiguousarray(values, dtype=np.float32).data)
    return math.sqrt(lost / whole) if whole else 0.0


def _read(file: BinaryIO, tensor: Tensor) -> Factor:
    file.seek(tensor.start)
    data = file.read(tensor.end - tensor.start)
    if tensor.dtype == "BF16":  # the upper half of a float32
        values = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(data, np.float16 if tensor.dtype == "F16" else np.float32).astype(np.float32)
    return values.reshape(tensor.shape)


def _energy(a: Factor, b: Factor) -> float:
    """The squared Frobenius norm of b·a, without the product itself."""
    return float(np.sum((b.T @ b) * (a @ a.T), dtype=np.float64))


def _reduce(a: Factor, b: Factor, rank: int) -> tuple[Factor, Factor, float, float]:
    """Factors of the best approximation of b·a with this rank, its squared norm, and that of what is lost.

    The decomposition is that of a square matrix as large as the rank: b = Q₁R₁ and aᵀ = Q₂R₂, so b·a = Q₁(R₁R₂ᵀ)Q₂ᵀ.
    """
    q1, r1 = np.linalg.qr(b)
    q2, r2 = np.linalg.qr(a.T)
    u, sizes, vt = np.linalg.svd(r1.astype(np.float64) @ r2.T.astype(np.float64), full_matrices=False)
    root = np.sqrt(sizes[:rank])
    left = (q1 @ (u[:, :rank] * root).astype(np.float32)).astype(np.float32)
    right = ((root[:, None] * vt[:rank]).astype(np.float32) @ q2.T).astype(np.float32)
    squares = sizes**2
    missing = rank - len(root)  # a module narrower than the rank
    if missing > 0:
        left = np.pad(left, ((0, 0), (0, missing)))
        right = np.pad(right, ((0, missing), (0, 0)))
    return right, left, float(squares.sum()), float(squares[rank:].sum())
