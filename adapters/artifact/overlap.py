"""Notices an adapter whose weights are a part of the base model's own: it was trained from there, and not converted.

PiSSA, OLoRA and CorDA take a part of W out of the base model and start the training with it in B·A. If such an
adapter is saved with `init_lora_weights=True`, as LLaMA-Factory saves `pissa_backup`, only the weights tell: the
cosine between B·A and W is far above that of any adapter that started at zero.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from adapters.artifact.files import WEIGHTS, open_plain, read_json
from adapters.artifact.header import Tensor, read_header
from adapters.artifact.tensors import PREFIX
from adapters.errors import ArtifactRefused

_ROWS_MAX = 1024  # of the outputs of one layer: enough for a cosine, and at most some 100 MiB
#: Measured on Qwen2.5-Coder-0.5B: plain adapters below 0.006, PiSSA and OLoRA of rank 8 to 64 from 0.23 to 0.96; on
#: the demo's base model below 0.007, and from 0.14 to 0.20 with rank 4.
_COSINE = 0.05
_INDEX = "model.safetensors.index.json"


def overlap_hint(adapter: Path, base: Path) -> str | None:
    """A sentence if the adapter contains a part of the base model's weights; blocks for some tenths of a second.

    None also where the base model's weights cannot be compared, because they are quantized.
    """
    cosine = overlap(adapter, base)
    if cosine is None or cosine < _COSINE:
        return None
    return (
        f"Its weights resemble the base model's own (cosine {cosine:.2f}), as after a PiSSA, OLoRA or CorDA training "
        "that was saved with init_lora_weights=True (LLaMA-Factory's pissa_backup). Such an adapter counts a part of "
        "the base model twice: convert it with save_pretrained(…, path_initial_model_for_weight_conversion=…), or "
        "add LLaMA-Factory's pissa_converted."
    )


def overlap(adapter: Path, base: Path) -> float | None:
    """The cosine between B·A and W of the adapter's first layer that the base model has in 16 or 32 bits."""
    try:
        with open_plain(adapter / WEIGHTS) as file:
            tensors = read_header(file, os.fstat(file.fileno()).st_size)
        for name, a in tensors.items():
            module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            b = tensors.get(f"{PREFIX}{module}.lora_B.weight")
            place = _find(base, f"{module}.weight") if b is not None and module != name else None
            if b is not None and place is not None:
                rows = min(_ROWS_MAX, b.shape[0])
                update = _read(adapter / WEIGHTS, b, rows) @ _read(adapter / WEIGHTS, a, a.shape[0])
                return _cosine(update, _read(*place, rows))
    except (ArtifactRefused, OSError, ValueError, KeyError):
        pass
    return None


def _find(base: Path, name: str) -> tuple[Path, Tensor] | None:
    """The file and the place of a tensor of the base model; its folder may have links, as the hub's cache."""
    shard = "model.safetensors"
    if (base / _INDEX).is_file():
        shard = read_json((base / _INDEX).resolve())["weight_map"].get(name, "")
    path = (base / shard).resolve()
    if not path.is_file():
        return None
    with path.open("rb") as file:
        tensor = read_header(file, path.stat().st_size).get(name)
    return (path, tensor) if tensor is not None else None


def _read(path: Path, tensor: Tensor, rows: int) -> np.ndarray:
    """The first rows of a matrix, in float32."""
    count = rows * tensor.shape[1]
    if tensor.dtype == "F32":
        values = np.fromfile(path, "<f4", count, offset=tensor.start)
    elif tensor.dtype == "F16":
        values = np.fromfile(path, "<f2", count, offset=tensor.start).astype("<f4")
    else:
        halves = np.fromfile(path, "<u2", count, offset=tensor.start)
        values = (halves.astype("<u4") << 16).view("<f4")
    return values.reshape(rows, tensor.shape[1])


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    sizes = float(np.linalg.norm(first)) * float(np.linalg.norm(second))
    return float((first * second).sum()) / sizes if sizes > 0 and np.isfinite(sizes) else 0.0
