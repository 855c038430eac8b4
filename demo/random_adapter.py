"""Generates distinct, valid adapters for the embedded model, without training and without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from adapters.artifact import BaseShape
from adapters.artifact.shape import PROJECTIONS
from demo import MODEL_DIR


def write_random_adapter(
    path: Path, *, seed: int, rank: int = 8, scale: float = 2.0, base_dir: Path = MODEL_DIR
) -> Path:
    """Write a PEFT LoRA adapter with random weights into the folder ``path`` and return ``path``.

    The same ``seed`` gives the same bytes; another seed gives another adapter. ``scale`` is roughly the size of
    the change relative to the base's projections: 2 makes greedy answers visibly different, 0.01 keeps them
    unchanged. Alpha equals rank, so the scaling is 1. All seven projections of all layers are covered.
    """
    random = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for module, (columns, rows) in BaseShape.from_config(base_dir / "config.json").modules().items():
        # Each row of A @ x has the size of x / sqrt(rank); B distributes it over the output rows.
        a = random.standard_normal((rank, columns)) / np.sqrt(columns)
        b = random.standard_normal((rows, rank)) * scale / np.sqrt(rank)
        tensors[f"base_model.model.{module}.lora_A.weight"] = a.astype(np.float32)
        tensors[f"base_model.model.{module}.lora_B.weight"] = b.astype(np.float32)
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(path / "adapter_model.safetensors"), metadata={"format": "pt"})
    adapter = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "loragate-demo",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(PROJECTIONS),
    }
    (path / "adapter_config.json").write_text(json.dumps(adapter, indent=2) + "\n", encoding="utf-8")
    return path
