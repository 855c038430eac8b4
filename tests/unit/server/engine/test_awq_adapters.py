"""Adapters that are scaled for a quantized base do to it what they do to the full one."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import demo
from server.engine.awq_adapters import AwqAdapters
from server.engine.base_model import QUANTIZE_SCALES

ADAPTER = demo.ADAPTERS["acme-support"].path


def full() -> Any:
    return AutoModelForCausalLM.from_pretrained(demo.MODEL_DIR, dtype=torch.float32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The demo model with random scales folded in as AWQ folds them, nothing rounded; and its folder."""
    torch.manual_seed(5)
    model, scales = full(), {}
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            stem = f"model.layers.{number}"
            attention, mlp = layer.self_attn, layer.mlp
            for norm, group, names in (
                (layer.input_layernorm, attention, ("q_proj", "k_proj", "v_proj")),
                (layer.post_attention_layernorm, mlp, ("gate_proj", "up_proj")),
            ):
                scale = torch.rand(norm.weight.numel()) * 3 + 0.2
                norm.weight /= scale
                for name in names:
                    getattr(group, name).weight *= scale
                    where = "self_attn" if group is attention else "mlp"
                    scales[f"{stem}.{where}.{name}.inputs"] = scale.clone()
            scale = torch.rand(mlp.down_proj.in_features) * 3 + 0.2
            mlp.up_proj.weight /= scale[:, None]
            mlp.down_proj.weight *= scale
            scales[f"{stem}.mlp.down_proj.inputs"] = scale
            scales[f"{stem}.mlp.up_proj.outputs"] = 1 / scale
    folder = tmp_path_factory.mktemp("scaled-base")
    (folder / QUANTIZE_SCALES).parent.mkdir()
    save_file(scales, folder / QUANTIZE_SCALES)
    return model, folder


def logits(model: Any, adapter: Path) -> torch.Tensor:
    with torch.inference_mode():
        scores: torch.Tensor = PeftModel.from_pretrained(copy.deepcopy(model), str(adapter))(
            torch.arange(40, 80)[None]
        ).logits
    return scores


def test_a_scaled_adapter_gives_the_full_models_logits(base: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = base
    scaled = AwqAdapters.of(folder, tmp_path / "scaled")
    assert scaled is not None
    wanted = logits(full(), ADAPTER)
    got = logits(model, scaled.write(7, ADAPTER))
    assert (got - wanted).abs().max() < 1e-3


def test_as_it_is_it_would_not_fit(base: tuple[Any, Path]) -> None:
    """So the test above can fail."""
    model, _ = base
    assert (logits(model, ADAPTER) - logits(full(), ADAPTER)).abs().max() > 0.1


def test_it_lies_there_while_it_is_loaded(base: tuple[Any, Path], tmp_path: Path) -> None:
    home = tmp_path / "scaled"
    scaled = AwqAdapters.of(base[1], home)
    assert scaled is not None
    one, two = scaled.write(1, ADAPTER), scaled.write(2, ADAPTER)
    assert one != two, "vLLM's prefix cache is keyed by name and path"
    assert scaled.write(1, ADAPTER) == one
    stored = load_file(ADAPTER / "adapter_model.safetensors")
    assert load_file(one / "adapter_model.safetensors").keys() == stored.keys()
    scaled.remove(1)
    assert not one.exists() and two.exists()
    assert AwqAdapters.of(base[1], home) is not None
    assert not two.exists(), "what an engine left that is gone"


def test_other_bases_take_adapters_as_they_are(tmp_path: Path) -> None:
    shutil.copytree(demo.MODEL_DIR, tmp_path / "model")
    assert AwqAdapters.of(tmp_path / "model", tmp_path / "scaled") is None
    assert not (tmp_path / "scaled").exists()
