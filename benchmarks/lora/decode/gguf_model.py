"""Writes a Qwen2 checkpoint as a GGUF file, and its Q4_K_M form with llama.cpp's own quantizer.

Needs `gguf` (requirements/bench-llama.txt) and llama.cpp's library (`benchmarks/lora/decode/llama`).
"""

from __future__ import annotations

import ctypes
import importlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.harness.errors import BenchmarkFailed

_Q4_K_M = 15  # LLAMA_FTYPE_MOSTLY_Q4_K_M of llama.h
_PARAMETER_BYTES = 512  # more than llama_model_quantize_params has
#: Names in the checkpoint → names in the file.
_WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_PARTS = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def write_gguf(model: Path, out: Path) -> Path:
    """Write the checkpoint in `model` with bfloat16 matrices.

    Raises:
        BenchmarkFailed: `gguf` is not installed, or the model is not a Qwen2.
    """
    try:
        gguf: Any = importlib.import_module("gguf")
    except ImportError as error:
        install = "pip install --no-deps -r requirements/bench-llama.txt"
        raise BenchmarkFailed(f"gguf is not installed: {install}, or use --without llama.") from error
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] != "qwen2":
        raise BenchmarkFailed(
            f"The GGUF writer knows qwen2, not {config['model_type']}: use --without llama."
        )
    writer = gguf.GGUFWriter(out, "qwen2")
    _write_shape(writer, config)
    _write_tokenizer(writer, model, config)
    for file in sorted(model.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            _write_tensor(gguf, writer, name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _write_shape(writer: Any, config: dict[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])


def _write_tokenizer(writer: Any, model: Path, config: dict[str, Any]) -> None:
    stored = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = {number: token for token, number in stored["model"]["vocab"].items()}
    special = {added["id"]: added["content"] for added in stored["added_tokens"]}
    numbers = range(config["vocab_size"])
    kinds = [3 if n in special else 1 if n in tokens else 5 for n in numbers]  # control, normal, unused
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in stored["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([special.get(n) or tokens.get(n) or f"[PAD{n}]" for n in numbers])
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_bos_token_id(config["bos_token_id"])


def _write_tensor(gguf: Any, writer: Any, name: str, tensor: torch.Tensor) -> None:
    if tensor.ndim == 1:
        writer.add_tensor(_gguf_name(name), tensor.float().numpy())
        return
    kind = gguf.GGMLQuantizationType.BF16
    writer.add_tensor(_gguf_name(name), gguf.quants.quantize(tensor.float().numpy(), kind), raw_dtype=kind)


def _gguf_name(name: str) -> str:
    if name in _WHOLE:
        return _WHOLE[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    part, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{_PARTS[part]}.{kind}"


def quantize(library: Path, source: Path, out: Path, threads: int) -> Path:
    """Write the Q4_K_M form of a GGUF file with llama.cpp's own `llama_model_quantize`. Raises: BenchmarkFailed."""
    for each in sorted(library.parent.glob("libggml*.so")):
        if each.name.startswith(("libggml-base", "libggml.")):
            ctypes.CDLL(str(each), ctypes.RTLD_GLOBAL)
    llama = ctypes.CDLL(str(library))

    class Parameters(ctypes.Structure):
        """The first fields of llama_model_quantize_params."""

        _fields_ = (
            ("threads", ctypes.c_int32),
            ("kind", ctypes.c_int),
            ("rest", ctypes.c_char * _PARAMETER_BYTES),
        )

    llama.llama_model_quantize_default_params.restype = Parameters
    parameters = llama.llama_model_quantize_default_params()
    parameters.threads, parameters.kind = threads, _Q4_K_M
    llama.llama_model_quantize.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Parameters))
    if llama.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(parameters)):
        raise BenchmarkFailed("llama.cpp could not quantize the model; its own lines above say why.")
    return out
