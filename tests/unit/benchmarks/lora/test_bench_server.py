"""The adapters of `benchmarks lora`, and the limits that it prints."""

from __future__ import annotations

from pathlib import Path

import pytest

import demo
from adapters.artifact import BaseShape
from benchmarks.harness import shapes
from benchmarks.lora.bench_server import tax_limits, write_adapters


def test_the_limits_follow_from_the_sizes_of_base_and_adapters(tmp_path: Path) -> None:
    """One adapter adds 2.5 % of the multiplications per row; four add 7 % to the bytes of a decode step."""
    model = shapes.write_model("qwen2.5-0.5b", tmp_path / "model")
    limits = tax_limits(BaseShape.from_config(model / "config.json"), adapters=4, rank=16)
    assert 1 / limits["lora_tax_prefill_limit"] - 1 == pytest.approx(0.0246, abs=0.0005)
    assert 1 / limits["lora_tax_decode_limit"] - 1 == pytest.approx(0.0712, abs=0.0005)


def test_adapters_have_their_public_names(tmp_path: Path) -> None:
    made = write_adapters(demo.MODEL_DIR, tmp_path, 2)
    assert list(made) == ["bench-a0", "bench-a1"]
    assert all((folder / "adapter_model.safetensors").exists() for folder in made.values())
