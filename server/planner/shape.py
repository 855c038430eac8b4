"""The shape of a dense decoder, read from its config.json, and the sizes that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.planner.errors import ModelUnplanned

_REQUIRED = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
    "max_position_embeddings",
)  # fmt: skip
#: Config keys of models whose parameters are not those of a plain dense decoder.
_OTHER_KINDS = ("num_experts", "num_local_experts", "n_routed_experts", "text_config", "kv_lora_rank")
#: Bits per weight of the quantization methods, by their names in configs and in `--quantization`.
_BITS = {
    "awq": 4, "awq_marlin": 4, "gptq": 4, "gptq_marlin": 4, "auto_awq": 4, "bitsandbytes": 4, "fp8": 8,
}  # fmt: skip
_GROUP = 128


@dataclass(frozen=True, slots=True)
class QuantizationScheme:
    """How the projections' weights are stored; embeddings, norms and biases stay in 16 bits."""

    method: str
    bits: int
    group_size: int

    @classmethod
    def of(cls, method: str, config: Mapping[str, Any] | None = None) -> QuantizationScheme:
        """A method by name, with the details of a config's `quantization_config`.

        Raises: ModelUnplanned: the planner does not know the method.
        """
        config = config or {}
        if method not in _BITS:
            known = ", ".join(sorted(_BITS))
            raise ModelUnplanned(f"The quantization {method!r} cannot be planned; known methods are {known}.")
        bits = int(config.get("bits") or config.get("w_bit") or _BITS[method])
        return cls(method, bits, int(config.get("group_size") or config.get("q_group_size") or _GROUP))

    def weight_bytes(self, inputs: int, outputs: int) -> int:
        """Packed weights and, per group of inputs, a 16-bit scale and a packed zero point."""
        packed = inputs * outputs * self.bits // 8
        if self.bits >= 8 or self.group_size <= 0:
            return packed + 4 * outputs
        groups = -(-inputs // self.group_size)
        return packed + groups * outputs * 2 + groups * outputs * self.bits // 8


@dataclass(frozen=True, slots=True)
class LinearShape:
    """One of the seven matrices of a layer."""

    name: str
    inputs: int
    outputs: int
    bias: bool

    @property
    def parameters(self) -> int:
        """Weights and bias."""
        return self.inputs * self.outputs + (self.outputs if self.bias else 0)

    def lora_parameters(self, rank: int) -> int:
        """A (rank x inputs) and B (outputs x rank)."""
        return rank * (self.inputs + self.outputs)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a dense decoder: Qwen2, Qwen2.5, Qwen3, and others with the same seven projections."""

    model_type: str
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_size: int
    vocab_size: int
    tied: bool  # lm_head shares the matrix of embed_tokens
    max_len: int
    dtype: str
    quantization: QuantizationScheme | None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read a config.json.

        Raises: ModelUnplanned: it is not a dense decoder, or a size is missing.
        """
        kind = config.get("model_type", "unknown")
        other = next((key for key in _OTHER_KINDS if config.get(key)), None)
        if other is not None:
            raise ModelUnplanned(f"A {kind} model with {other} is not a dense decoder and cannot be planned.")
        missing = [key for key in _REQUIRED if not isinstance(config.get(key), int)]
        if missing:
            raise ModelUnplanned(
                f"The config.json of this {kind} model has no number for {', '.join(missing)}."
            )
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        stored = config.get("quantization_config")
        return cls(
            model_type=str(kind),
            layers=int(config["num_hidden_layers"]),
            hidden_size=hidden,
            intermediate_size=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_size=int(config.get("head_dim") or hidden // heads),
            vocab_size=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            max_len=int(config["max_position_embeddings"]),
            dtype=str(config.get("dtype") or config.get("torch_dtype") or "bfloat16"),
            quantization=QuantizationScheme.of(str(stored["quant_method"]), stored) if stored else None,
        )

    @property
    def projections(self) -> tuple[LinearShape, ...]:
        """The seven projections of each layer."""
        hidden, mlp = self.hidden_size, self.intermediate_size
        query, key = self.heads * self.head_size, self.kv_heads * self.head_size
        bias = self.model_type == "qwen2"  # Qwen2 and Qwen2.5 have biases on q, k and v; Qwen3 has none
        return (
            LinearShape("q_proj", hidden, query, bias),
            LinearShape("k_proj", hidden, key, bias),
            LinearShape("v_proj", hidden, key, bias),
            LinearShape("o_proj", query, hidden, False),
            LinearShape("gate_proj", hidden, mlp, False),
            LinearShape("up_proj", hidden, mlp, False),
            LinearShape("down_proj", mlp, hidden, False),
        )

    @property
    def lora_on_embeddings(self) -> bool:
        """Whether vLLM also has LoRA slots for embed_tokens and lm_head (`embedding_modules` of Qwen3)."""
        return self.model_type == "qwen3"

    @property
    def embedding_parameters(self) -> int:
        """embed_tokens, and lm_head when it is a separate matrix."""
        return self.vocab_size * self.hidden_size * (1 if self.tied else 2)

    @property
    def norm_parameters(self) -> int:
        """Two norms per layer (Qwen3: two more, for queries and keys) and the final one."""
        per_layer = 2 * self.hidden_size + (2 * self.head_size if self.model_type == "qwen3" else 0)
        return self.layers * per_layer + self.hidden_size

    @property
    def parameters(self) -> int:
        """All parameters."""
        in_layers = self.layers * sum(projection.parameters for projection in self.projections)
        return self.embedding_parameters + in_layers + self.norm_parameters

    def lora_parameters(self, rank: int) -> int:
        """Parameters of one adapter on all seven projections of all layers."""
        return self.layers * sum(projection.lora_parameters(rank) for projection in self.projections)

    def slot_parameters(self, rank: int, *, devices: int = 1) -> int:
        """Parameters of one LoRA slot per device: vLLM sizes it for the highest rank and all supported modules.

        B is split for projections that are split by outputs, A for those that are split by inputs.
        """
        per_layer = 0
        for p in self.projections:
            by_input = p.name in ("o_proj", "down_proj")
            inputs = p.inputs // devices if by_input else p.inputs
            outputs = p.outputs if by_input else p.outputs // devices
            per_layer += rank * (inputs + outputs)
        ends = 2 * rank * (self.vocab_size + self.hidden_size) if self.lora_on_embeddings else 0
        return self.layers * per_layer + ends

    def weight_bytes(self, bytes_per_weight: int, quantization: QuantizationScheme | None) -> int:
        """Bytes of the loaded base model."""
        if quantization is None:
            return self.parameters * bytes_per_weight
        in_layers = sum(quantization.weight_bytes(p.inputs, p.outputs) for p in self.projections)
        biases = sum(p.outputs for p in self.projections if p.bias)
        rest = self.embedding_parameters + self.norm_parameters + self.layers * biases
        return self.layers * in_layers + rest * bytes_per_weight

    def kv_bytes_per_token(self, bytes_per_value: int, *, devices: int = 1) -> int:
        """Bytes of the keys and values of one token in all layers, per device."""
        heads = max(1, self.kv_heads // devices)
        return 2 * self.layers * heads * self.head_size * bytes_per_value
