"""Weights in AutoAWQ's GEMM format: packed, and read back as floating point.

A projection W [out, in] is stored as `qweight` int32 [in, out/8], `qzeros` int32 [in/group, out/8] and `scales`
half [in/group, out]: w = (q - z) · s, with q and z in 0 … 15 and one (s, z) per group of inputs and output.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

BITS = 4
_MASK = 2**BITS - 1
#: The order of eight neighbouring columns in the nibbles of an int32, lowest nibble first.
NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)


def unpack(words: torch.Tensor) -> torch.Tensor:
    """int32 [rows, columns/8] as codes [rows, columns] in 0 … 15."""
    columns = torch.empty(*words.shape, 8, dtype=torch.int64)
    for place, column in enumerate(NIBBLES):
        columns[:, :, column] = (words.to(torch.int64) >> (BITS * place)) & _MASK
    return columns.view(words.shape[0], -1)


def pack(codes: torch.Tensor) -> torch.Tensor:
    """Codes [rows, columns] in 0 … 15 as int32 [rows, columns/8]."""
    columns = codes.to(torch.int32).view(codes.shape[0], -1, 8)
    words = torch.zeros(columns.shape[:2], dtype=torch.int32)
    for place, column in enumerate(NIBBLES):
        words |= columns[:, :, column] << (BITS * place)
    return words


def encode(weight: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The codes [in, out] of rounded weights [out, in], with `zeros` and `scales` [in/group, out].

    Computed in the weights' precision, as AutoAWQ does it column by column.
    """
    group_size = weight.shape[1] // scales.shape[0]
    shifts = (zeros * scales).t().repeat_interleave(group_size, 1)
    steps = scales.t().repeat_interleave(group_size, 1)
    return torch.round((weight + shifts) / steps).clamp(0, _MASK).to(torch.int32).t().contiguous()


def dequantize(qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """One projection as float32 [out, in]."""
    group_size = qweight.shape[0] // scales.shape[0]
    steps = scales.float().repeat_interleave(group_size, 0)
    zeros = unpack(qzeros).repeat_interleave(group_size, 0)
    return ((unpack(qweight) - zeros) * steps).t().contiguous()


def read_dequantized(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint in float32, with the names of the full model."""
    stored: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        stored |= load_file(file)
    found = {}
    for name, tensor in stored.items():
        stem, _, part = name.rpartition(".")
        if part == "qweight":
            found[f"{stem}.weight"] = dequantize(tensor, stored[f"{stem}.qzeros"], stored[f"{stem}.scales"])
        elif part not in ("qzeros", "scales"):
            found[name] = tensor.float()
    return found


def is_awq(folder: Path) -> bool:
    """Whether ``config.json`` says that the checkpoint is in this format."""
    config: Mapping[str, object] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored = config.get("quantization_config")
    return isinstance(stored, dict) and stored.get("quant_method") == "awq"
