"""The bytes that a decode step must read, and how fast this machine reads memory."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from benchmarks.lora.decode.four_bit_model import GROUP

_READ_BYTES = 512 * 1024**2
_REPEATS = 5
#: A weight of 4 bits has a share of its group's scale (float32) and zero point; the head has 8 bits and a scale.
BYTES_PER_WEIGHT = {"bf16": (2.0, 2.0), "4bit": (0.5 + 5 / GROUP, 1 + 4 / GROUP)}


def read_bandwidth() -> float:
    """Bytes per second that torch's threads read together, the best of several passes over half a gigabyte."""
    values = torch.zeros(_READ_BYTES // 4)
    best_s = float("inf")
    for _ in range(_REPEATS):
        start_s = time.perf_counter()
        values.sum()
        best_s = min(best_s, time.perf_counter() - start_s)
    return _READ_BYTES / best_s


def step_bytes(model: Path, bits: str) -> float:
    """Bytes of the linear layers and the output layer, which a step reads; adapters and KV cache come on top."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer = hidden * (2 * queries + 2 * keys + 3 * inner)
    of_layers, of_head = BYTES_PER_WEIGHT[bits]
    return float(config["num_hidden_layers"] * layer * of_layers + config["vocab_size"] * hidden * of_head)
