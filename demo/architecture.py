"""The embedded model's shape: a Qwen2 of about three million parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM

from demo.tokenizer import END_OF_TEXT, IM_END

MAX_LENGTH_TOKENS = 4096

# The distances that the first layer's heads attend to at the start, and the strength of that attention.
_DISTANCES = (1, 2, 0, 3)
_LOOK_STRENGTH = 3.0


def model_config(tokenizer: Tokenizer, *, layers: int = 4, hidden: int = 256) -> Qwen2Config:
    """GQA, SwiGLU, tied embeddings; head size 64, which vLLM's CPU attention supports."""
    heads = hidden // 64
    return Qwen2Config(
        vocab_size=-(-tokenizer.get_vocab_size() // 64) * 64,
        hidden_size=hidden,
        intermediate_size=hidden * 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(heads // 2, 1),
        max_position_embeddings=MAX_LENGTH_TOKENS,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(IM_END),
        pad_token_id=tokenizer.token_to_id(END_OF_TEXT),
    )


def look_back(model: Qwen2ForCausalLM) -> None:
    """Initialise the first layer's heads to attend to the token itself and to the tokens just before it.

    Copying from the context first requires that a token attends to its predecessor; from a random start, learning
    that alone takes longer than the whole build. With RoPE, constant query and key vectors produce scores that
    depend only on the distance. So Qwen2's query and key biases can select "one token back": the key bias is a
    constant in the high frequencies, the query bias is the same vector rotated by the wanted distance.
    """
    config, attention = model.config, model.model.layers[0].self_attn
    size = config.hidden_size // config.num_attention_heads
    pairs = size // 2
    fast = torch.arange(pairs // 2)
    turn = config.rope_parameters["rope_theta"] ** (-fast / pairs)  # radians per token
    with torch.no_grad():
        for head in range(config.num_key_value_heads):
            attention.k_proj.bias[head * size + fast] = _LOOK_STRENGTH
        for head in range(config.num_attention_heads):
            distance = _DISTANCES[head % len(_DISTANCES)]
            attention.q_proj.bias[head * size + fast] = _LOOK_STRENGTH * torch.cos(turn * distance)
            attention.q_proj.bias[head * size + pairs + fast] = -_LOOK_STRENGTH * torch.sin(turn * distance)


def save_model(model: Qwen2ForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Round ``model`` to bfloat16 *in place* and write it, with its generation defaults, into ``out``.

    Because of the rounding in place, later scores are those of the stored model.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    tensors = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embeddings
    }
    save_file(tensors, str(out / "model.safetensors"), metadata={"format": "pt"})
    config: dict[str, Any] = model.config.to_dict() | {
        "architectures": ["Qwen2ForCausalLM"],
        "dtype": "bfloat16",
    }
    # NOTE: safetensors writes 0600; the server may run as another user.
    (out / "model.safetensors").chmod(0o644)
    _write_json(out / "config.json", config)
    ends = [tokenizer.token_to_id(IM_END), tokenizer.token_to_id(END_OF_TEXT)]
    generation = {"eos_token_id": ends, "pad_token_id": ends[1], "do_sample": False}
    _write_json(out / "generation_config.json", generation)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
