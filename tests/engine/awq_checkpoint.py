"""A 4-bit checkpoint in AutoAWQ's GEMM format, by rounding to nearest.

The format is AutoAWQ's, the rounding is not: AWQ scales channels by what calibration texts show to matter before
it rounds. What a test needs is the format, which decides whether vLLM reads the weights right.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

GROUP_SIZE = 64
BITS = 4
LEVELS = 2**BITS - 1
#: Which of eight neighbouring columns stands in which nibble of an int32, lowest first (AutoAWQ's `pack_intweight`).
_NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)


def write_awq(source: Path, target: Path, *, group_size: int = GROUP_SIZE) -> Path:
    """Write `source` (a folder with one model.safetensors) to `target` with every `*_proj` in 4 bits."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            for part, tensor in quantized(weight, group_size).items():
                tensors[f"{name.removesuffix('weight')}{part}"] = tensor
        else:
            tensors[name] = weight.half()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    config["dtype"] = "float16"
    config["quantization_config"] = {
        "quant_method": "awq",
        "bits": BITS,
        "group_size": group_size,
        "zero_point": True,
        "version": "gemm",
    }
    (target / "config.json").write_text(json.dumps(config))
    return target


def quantized(weight: torch.Tensor, group_size: int = GROUP_SIZE) -> dict[str, torch.Tensor]:
    """`weight` [out, in] as qweight int32 [in, out/8], qzeros int32 [in/group, out/8], scales half [in/group, out].

    w ≈ (q - z) · s with q and z in 0 … 15 and one (s, z) per group of inputs and output.
    """
    rows = weight.float().t().contiguous()
    inputs, outputs = rows.shape
    groups = rows.view(inputs // group_size, group_size, outputs)
    low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)
    scales = ((high - low) / LEVELS).clamp(min=1e-6).half()
    zeros = (-low / scales.float()).round().clamp(0, LEVELS)
    codes = (groups / scales.float()[:, None] + zeros[:, None]).round().clamp(0, LEVELS)
    return {"qweight": packed(codes.view(inputs, outputs)), "qzeros": packed(zeros), "scales": scales}


def packed(codes: torch.Tensor) -> torch.Tensor:
    """Codes [rows, columns] in 0 … 15 as int32 [rows, columns/8]."""
    eights = codes.to(torch.int64).view(codes.shape[0], -1, 8)
    words = sum(eights[:, :, column] << (BITS * place) for place, column in enumerate(_NIBBLES))
    assert isinstance(words, torch.Tensor)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpacked(words: torch.Tensor) -> torch.Tensor:
    """The reverse of `packed`."""
    columns = torch.empty(*words.shape, 8, dtype=torch.int64)
    for place, column in enumerate(_NIBBLES):
        columns[:, :, column] = (words.to(torch.int64) >> (BITS * place)) & LEVELS
    return columns.view(words.shape[0], -1)
