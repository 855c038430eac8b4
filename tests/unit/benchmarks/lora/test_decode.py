"""The parts of `benchmarks decode` that need no server."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import demo
from adapters.training.quantization.awq_weights import dequantize, is_awq, unpack
from benchmarks.harness.errors import BenchmarkFailed, InvalidOption
from benchmarks.lora.decode import benchmark, gguf_model, llama_process, memory_floor
from benchmarks.lora.decode.four_bit_model import pack, quantize, write_four_bit_model
from benchmarks.lora.decode.step_profile import PartTimer

FLOORS = {"bf16": 20.0, "4bit": 60.0}


def test_ratios_are_taken_within_rounds_and_floors_count_streams() -> None:
    rates = {
        "ours_bf16_0_1": [10.0, 18.0, 16.0],
        "ours_bf16_0_8": [80.0],
        "ours_bf16_4_8": [72.0],
        "ours_4bit_0_8": [160.0],
        "ours_4bit_4_8": [144.0],
        "llama_4bit_0_8": [40.0],
        "stock_bf16_0_1": [5.0, 6.0, 4.0],
    }
    found = benchmark.figures_of(rates, FLOORS)
    assert found["decode_bf16_vs_floor_1"] == pytest.approx(0.8)
    assert found["decode_bf16_vs_floor_8"] == pytest.approx(0.5)
    assert found["decode_bf16_vs_stock_1"] == pytest.approx(3.0)
    assert found["decode_4bit_vs_llama_cpp_8"] == pytest.approx(4.0)
    assert found["decode_4bit_vs_bf16_8"] == pytest.approx(2.0)
    assert found["lora_tax_decode_bf16"] == found["lora_tax_decode_4bit"] == pytest.approx(0.9)
    assert found["ours_bf16_0_1_tokens_per_s"] == 16.0
    assert "decode_4bit_vs_llama_cpp_1" not in found, "it was not measured"


def test_a_step_reads_linear_layers_and_output_layer(tmp_path: Path) -> None:
    shape = {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(shape))
    assert memory_floor.step_bytes(tmp_path, "bf16") == pytest.approx(0.988e9, rel=1e-3)
    assert memory_floor.step_bytes(tmp_path, "4bit") == pytest.approx(0.333e9, rel=1e-2)


def test_codes_are_packed_in_awqs_order() -> None:
    codes = torch.randint(0, 16, (3, 32))
    assert torch.equal(unpack(pack(codes)), codes)


@pytest.mark.parametrize("shift", [0.0, 0.05, -0.05])
def test_weights_are_rounded_to_the_nearest_step(shift: float) -> None:
    weight = torch.randn(16, 256) * 0.02 + shift
    stored = quantize(weight)
    step = stored["scales"].float().t().repeat_interleave(128, 1)
    assert ((dequantize(**stored) - weight).abs() <= 1.02 * step).all()


@pytest.mark.slow
def test_the_four_bit_form_is_a_checkpoint_of_awq(tmp_path: Path) -> None:
    out = write_four_bit_model(demo.MODEL_DIR, tmp_path / "model")
    tensors = load_file(out / "model.safetensors")
    names = {name.rpartition(".")[0] for name in tensors if name.endswith("qweight")}
    assert is_awq(out) and len(names) % 7 == 0 and "model.embed_tokens.weight" in tensors
    assert (out / "tokenizer.json").exists()


def test_parts_get_their_exclusive_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 6.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    timer = PartTimer()
    timer.begin("outer")
    timer.begin("inner")
    timer.end()
    timer.end()
    assert timer.spent_s == {"outer": 4.0, "inner": 2.0}


def test_tensors_have_the_names_that_llama_cpp_reads() -> None:
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.11.self_attn.q_proj.bias": "blk.11.attn_q.bias",
        "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
        "model.layers.3.post_attention_layernorm.weight": "blk.3.ffn_norm.weight",
    }
    assert {name: gguf_model._gguf_name(name) for name in names} == names


def test_what_is_missing_is_said_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_process, "_BINARIES", tmp_path)
    with pytest.raises(BenchmarkFailed, match=r"npm install .* or use --without llama"):
        llama_process.library()
    with pytest.raises(InvalidOption, match="name a Qwen2 checkpoint"):
        benchmark.main(["--model", str(tmp_path)])


def test_quick_is_one_short_round() -> None:
    options = benchmark._options(["--model", str(demo.MODEL_DIR), "--quick"])
    assert (options.streams, options.tokens, options.rounds) == ([1, 8], 32, 1)
