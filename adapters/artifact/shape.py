"""The sizes of the base model that an adapter must fit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
PROJECTIONS = ATTENTION + MLP
_MODEL_TYPES = {"qwen2": "Qwen2", "qwen3": "Qwen3"}


@dataclass(frozen=True, slots=True)
class BaseShape:
    """Sizes of a dense Qwen2, Qwen2.5 or Qwen3 model."""

    model_type: str
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    tied: bool  # whether lm_head is embed_tokens

    @classmethod
    def from_config(cls, path: Path) -> BaseShape:
        """Read a model's `config.json`.

        Raises: ValueError: not a dense Qwen2/Qwen2.5/Qwen3 model; OSError: not readable.
        """
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        model_type = config.get("model_type")
        if model_type not in _MODEL_TYPES:
            raise ValueError(f"model_type {model_type!r} is not one of {', '.join(_MODEL_TYPES)}")
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return cls(
            model_type=str(model_type),
            layers=int(config["num_hidden_layers"]),
            hidden_size=hidden,
            intermediate_size=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocab_size=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    @property
    def family(self) -> str:
        """The readable name of the model family."""
        return _MODEL_TYPES[self.model_type]

    @property
    def lora_embeddings(self) -> bool:
        """Whether vLLM applies LoRA to embed_tokens and lm_head (`embedding_modules` of its model class)."""
        return self.model_type == "qwen3"

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """(input size, output size) of the seven projections, by leaf name."""
        hidden, mlp = self.hidden_size, self.intermediate_size
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sizes = [(hidden, query), (hidden, key), (hidden, key), (query, hidden)]
        sizes += [(hidden, mlp), (hidden, mlp), (mlp, hidden)]
        return dict(zip(PROJECTIONS, sizes, strict=True))

    def lora_modules(self) -> dict[str, tuple[int, int]]:
        """(input size, output size) of every layer that can have a LoRA, by full path."""
        sizes = self.modules()
        if self.lora_embeddings:
            sizes["lm_head"] = (self.hidden_size, self.vocab_size)
            sizes["model.embed_tokens"] = (self.vocab_size, self.hidden_size)
        return sizes

    def modules(self) -> dict[str, tuple[int, int]]:
        """(input size, output size) of every projection of every layer, by full path."""
        sizes = self.projections
        return {
            f"model.layers.{layer}.{'self_attn' if leaf in ATTENTION else 'mlp'}.{leaf}": sizes[leaf]
            for layer in range(self.layers)
            for leaf in PROJECTIONS
        }
