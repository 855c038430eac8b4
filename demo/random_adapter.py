"""Generates distinct, valid adapters for the embedded model, without training and without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from demo import MODEL_DIR

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")


def write_random_adapter(
    path: Path, *, seed: int, rank: int = 8, scale: float = 2.0, base_dir: Path = MODEL_DIR
) -> Path:
    """Write a PEFT LoRA adapter with random weights into the folder ``path`` and return ``path``.

    The same ``seed`` gives the same bytes; another seed gives another adapter. ``scale`` is roughly the size of
    the change relative to the base's projections: 2 makes greedy answers visibly different, 0.01 keeps them
    unchanged. Alpha equals rank, so the scaling is 1. All seven projections of all layers are covered.
    """
    config = json.loads((base_dir / "config.json").read_text(encoding="utf-8"))
    random = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for layer in range(config["num_hidden_layers"]):
        for module, (rows, columns) in _shapes(config).items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            # Each row of A @ x has the size of x / sqrt(rank); B distributes it over the output rows.
            a = random.standard_normal((rank, columns)) / np.sqrt(columns)
            b = random.standard_normal((rows, rank)) * scale / np.sqrt(rank)
            tensors[f"{name}.lora_A.weight"] = a.astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = b.astype(np.float32)
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
        "target_modules": sorted([*_ATTENTION, *_MLP]),
    }
    (path / "adapter_config.json").write_text(json.dumps(adapter, indent=2) + "\n", encoding="utf-8")
    return path


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(output, input) size of every projection of a layer."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    query, kv = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    rows = {"q_proj": query, "k_proj": kv, "v_proj": kv}
    shapes = {f"self_attn.{name}": (rows[name], hidden) for name in rows}
    shapes["self_attn.o_proj"] = (hidden, query)
    shapes |= {f"mlp.{name}": (inner, hidden) for name in _MLP[:2]}
    shapes["mlp.down_proj"] = (hidden, inner)
    return shapes
