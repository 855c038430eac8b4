"""Writes a model's 4-bit form in AWQ's layout, its weights rounded to the nearest step.

That takes seconds, where AutoAWQ's search for scales takes minutes: it has AWQ's speed, not its quality.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from adapters.training.quantization.awq_weights import BITS, NIBBLES

GROUP = 128
_STEPS = 2**BITS - 1
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_four_bit_model(model: Path, out: Path) -> Path:
    """Write the 4-bit form of the checkpoint in `model`; returns its folder."""
    out.mkdir(parents=True)
    for file in model.iterdir():
        if file.suffix != ".safetensors" and file.is_file():
            shutil.copyfile(file, out / file.name)
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(model.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            stem, _, part = name.rpartition(".")
            if part == "weight" and stem.endswith(_PROJECTIONS):
                tensors |= {f"{stem}.{part}": value for part, value in quantize(tensor).items()}
            else:
                tensors[name] = tensor
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {
        "quant_method": "awq", "bits": BITS, "group_size": GROUP, "zero_point": True, "version": "gemm",
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return out


def quantize(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """One projection [out, in] as AWQ's `qweight`, `qzeros` and `scales` (`adapters.training.quantization`)."""
    outputs, inputs = weight.shape
    groups = weight.float().view(outputs, inputs // GROUP, GROUP)
    low, high = groups.amin(2).clamp_max(0), groups.amax(2).clamp_min(0)
    scales = ((high - low) / _STEPS).clamp_min(1e-5).half()
    zeros = (-low / scales.float()).round().clamp(0, _STEPS)
    codes = ((groups / scales.float()[:, :, None]).round() + zeros[:, :, None]).clamp(0, _STEPS)
    return {
        "qweight": pack(codes.view(outputs, inputs).t()),
        "qzeros": pack(zeros.t()),
        "scales": scales.t().contiguous(),
    }


def pack(codes: torch.Tensor) -> torch.Tensor:
    """Codes [rows, columns] in 0 … 15 as int32 [rows, columns / 8], in AutoAWQ's order."""
    eights = codes.to(torch.int64).reshape(codes.shape[0], -1, 8)
    words = sum(eights[:, :, column] << (BITS * place) for place, column in enumerate(NIBBLES))
    return torch.as_tensor(words).to(torch.int32).contiguous()
