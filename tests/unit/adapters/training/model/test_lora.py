"""Which adapters are allowed, how they are described, and what is refused before a training starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

import demo
from adapters.artifact.shape import BaseShape
from adapters.training import training_run as run
from adapters.training.config import PROJECTIONS, TrainingConfig
from adapters.training.errors import HardwareError, UnservableError
from adapters.training.model.base_model import resolve_auto
from adapters.training.model.lora import (
    add_lora,
    check_servable,
    describe,
    parameters_by_matrix,
)
from adapters.training.presets import PRESETS
from server.cli import train as command

Configure = Callable[..., TrainingConfig]


@pytest.mark.parametrize("changes", [{}, {"targets": ("q_proj", "down_proj")}, {"rank": 8}])
def test_described_parameters_are_those_that_train(configure: Configure, changes: dict[str, Any]) -> None:
    config = configure(**changes)
    model = add_lora(AutoModelForCausalLM.from_pretrained(config.base, dtype=torch.float32), config)
    described = parameters_by_matrix(config, BaseShape.from_config(config.base / "config.json"))
    trained: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            leaf = next(p for p in PROJECTIONS if f".{p}." in name)
            trained[leaf] = trained.get(leaf, 0) + parameter.numel()
    assert described == trained


def test_scaling_is_described_with_advice(configure: Configure) -> None:
    shape = BaseShape.from_config(demo.MODEL_DIR / "config.json")
    lines = describe(configure(rank=16, alpha=32), shape)
    assert "alpha / rank = 2" in lines[0] and "q_proj" in lines[1] and len(lines) == 2
    damped = describe(configure(rank=16, alpha=8), shape)
    assert "--alpha 16" in damped[2] and "0.5 of its size" in damped[2]
    assert "alpha / sqrt(rank) = 2" in describe(configure(rank=16, alpha=8, rslora=True), shape)[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"use_dora": True}, "DoRA cannot be served"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias=all cannot be served"),
        ({"lora_bias": True}, "biases cannot be served"),
        ({"init_lora_weights": "pissa"}, "PiSSA moved a part of the base model's weights"),
        ({"init_lora_weights": "eva"}, "must be true, gaussian or orthogonal"),
        ({"trainable_token_indices": [1]}, "Trained tokens"),
        ({"r": 8}, "--rank"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern is not passed to peft"),
    ],
)
def test_options_the_server_cannot_serve_are_refused(
    configure: Configure, options: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spend(*_: Any) -> None:
        raise AssertionError("time was spent")

    monkeypatch.setattr(run, "load_renderer", spend)
    with pytest.raises(UnservableError, match=says):
        run.train(configure(lora_options=options))


def test_servable_options_reach_peft(configure: Configure) -> None:
    config = configure(lora_options={"init_lora_weights": "gaussian", "layers_to_transform": [1]})
    check_servable(config)
    model = add_lora(AutoModelForCausalLM.from_pretrained(config.base, dtype=torch.float32), config)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained and all(".layers.1." in n for n in trained)
    described = parameters_by_matrix(config, BaseShape.from_config(config.base / "config.json"))
    assert sum(described.values()) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.slow
def test_continuing_needs_an_adapter_of_the_same_shape(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(UnservableError, match="is not an adapter"):
        check_servable(configure(start_from=tmp_path))
    first = configure(out=tmp_path / "first", max_steps=3, measure=0)
    run.train(first)
    check_servable(configure(start_from=first.out))
    for name, value in {"rank": 8, "alpha": 4, "rslora": True, "targets": ("q_proj",)}.items():
        with pytest.raises(UnservableError, match=f"has {name} "):
            check_servable(configure(start_from=first.out, **{name: value}))


def test_flags_override_a_preset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[TrainingConfig] = []

    class _Report:
        document: dict[str, Any] = {}

    monkeypatch.setattr(run, "train", lambda config: seen.append(config) or _Report())
    common = ["--base", "demo", "--data", "x.jsonl", "--out", str(tmp_path), "--max-lora-rank", "32"]
    for name, preset in PRESETS.items():
        assert CliRunner().invoke(command.train, [*common, "--preset", name]).exit_code == 0
        assert seen[-1].rank == preset.rank and seen[-1].alpha == preset.alpha
        assert seen[-1].learning_rate == 2e-4
    assert [(p.rank, p.alpha) for p in PRESETS.values()] == [(16, 16), (32, 32), (16, 32)]
    CliRunner().invoke(command.train, [*common, "--preset", "capacity", "--alpha", "7"])
    assert (seen[-1].rank, seen[-1].alpha) == (32, 7)


def test_what_needs_a_gpu_says_so_on_a_cpu(configure: Configure) -> None:
    for changes in ({"optimizer": "adamw_8bit"}, {"attention": "flash_attention_2"}):
        with pytest.raises(HardwareError, match="CUDA GPU"):
            resolve_auto(configure(**changes), "cpu")
    with pytest.raises(HardwareError, match="--packing off"):
        resolve_auto(configure(packing="on", attention="eager"), "cpu")
    with pytest.raises(HardwareError, match="--packing prefix needs --attention sdpa; it is eager"):
        resolve_auto(configure(packing="prefix", attention="eager"), "cpu")
    with pytest.raises(ValueError, match="float16"):
        configure(dtype="float16")


def test_auto_is_decided_before_the_fingerprint(configure: Configure) -> None:
    cpu = resolve_auto(configure(), "cpu")
    assert (cpu.packing, cpu.attention) == ("off", "sdpa")
    assert cpu.dtype in ("float32", "bfloat16")
    assert "auto" not in json.dumps(cpu.hyperparameters())
    assert resolve_auto(configure(dtype="float32"), "cuda:0").packing == "on"
