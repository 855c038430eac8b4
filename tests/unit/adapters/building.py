"""Small adapters, valid and damaged, written with numpy."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapters.artifact import BaseShape

BASE = BaseShape(
    model_type="qwen2",
    layers=2,
    hidden_size=32,
    intermediate_size=64,
    heads=4,
    kv_heads=2,
    head_dim=8,
    vocab_size=100,
    tied=True,
)
RANK = 4
Tensors = dict[str, tuple[str, np.ndarray]]  # name -> (safetensors dtype, bits)


def bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 values as the integers that a tensor of this type consists of."""
    if dtype == "F32":
        return values.astype("<f4").view("<u4")
    if dtype == "F16":
        return values.astype("<f2").view("<u2")
    return (values.astype("<f4").view("<u4") >> 16).astype("<u2")  # BF16, cut off


def make_tensors(base: BaseShape = BASE, rank: int = RANK, dtype: str = "F32", seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}
    for module, (size_in, size_out) in base.modules().items():
        for side, shape in (("A", (rank, size_in)), ("B", (size_out, rank))):
            values = rng.normal(0, 0.02, shape).astype("<f4")
            tensors[f"base_model.model.{module}.lora_{side}.weight"] = (dtype, bits(values, dtype))
    return tensors


def make_config(**changes: Any) -> dict[str, Any]:
    """What PEFT 0.21 writes for `LoraConfig(r=4, lora_alpha=8, target_modules=<all seven>)`, in short."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct",
        "r": RANK,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["up_proj", "q_proj", "o_proj", "down_proj", "gate_proj", "v_proj", "k_proj"],
        "exclude_modules": None,
        "modules_to_save": None,
        "init_lora_weights": True,
        "use_dora": False,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "loftq_config": {},
        "runtime_config": None,
        "inference_mode": True,
        "peft_version": "0.21.2",
    }
    return {**config, **changes}


def encode(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    parts, offset = [], 0
    for name, (dtype, array) in tensors.items():
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        parts.append(data)
        offset += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def write_adapter(
    folder: Path,
    tensors: Tensors | None = None,
    config: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
) -> Path:
    """Write an adapter folder; it is valid by default."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config or make_config()))
    (folder / "adapter_model.safetensors").write_bytes(encode(make_tensors() if tensors is None else tensors))
    if training is not None:
        (folder / "training.json").write_text(json.dumps(training))
    return folder


def rename_keys(tensors: Tensors, change: Callable[[str], str]) -> Tensors:
    return {change(name): value for name, value in tensors.items()}
