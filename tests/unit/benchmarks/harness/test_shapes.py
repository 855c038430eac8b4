"""The shapes of public models, and model folders without weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import demo
from benchmarks.harness import shapes


def test_shapes_are_the_public_configurations() -> None:
    assert shapes.names() == ["qwen2.5-0.5b", "qwen2.5-3b"]
    for name, hidden, layers in (("qwen2.5-0.5b", 896, 24), ("qwen2.5-3b", 2048, 36)):
        config = shapes.load(name)
        assert (config["hidden_size"], config["num_hidden_layers"]) == (hidden, layers)
        assert config["architectures"] == ["Qwen2ForCausalLM"]
    with pytest.raises(KeyError, match=r"no shape 'qwen9'; use one of qwen2\.5-0\.5b, qwen2\.5-3b\."):
        shapes.load("qwen9")


def test_a_model_folder_has_the_shape_and_the_demos_tokenizer(tmp_path: Path) -> None:
    model = shapes.write_model("qwen2.5-0.5b", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    tokenizer = json.loads((demo.MODEL_DIR / "config.json").read_text())
    assert config["hidden_size"] == shapes.load("qwen2.5-0.5b")["hidden_size"]
    assert config["eos_token_id"] == tokenizer["eos_token_id"]
    assert (model / "tokenizer.json").read_bytes() == (demo.MODEL_DIR / "tokenizer.json").read_bytes()
    assert not list(model.glob("*.safetensors"))
