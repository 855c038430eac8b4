"""A 4-bit base: what is quantised, that it learns, and that the adapter fits the full base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from adapters.training import training_run as run
from adapters.training.config import TrainingConfig
from adapters.training.model.base_model import load_base, resolve_auto
from adapters.training.model.lora import add_lora
from adapters.training.training_evaluation import TrainingEvaluation
from adapters.training.training_run import train

Configure = Callable[..., TrainingConfig]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_projections_are_nf4_and_gradients_are_never_half(configure: Configure, dtype: str) -> None:
    config = resolve_auto(configure(qlora=True, dtype=dtype, gradient_checkpointing=True), "cpu")
    model = add_lora(load_base(config, "cpu"), config)
    layer = model.base_model.model.model.layers[0]
    quantised = layer.mlp.up_proj.base_layer
    assert type(quantised).__name__ == "Linear4bit"
    assert quantised.weight.dtype == torch.uint8 and quantised.weight.quant_type == "nf4"
    assert quantised.weight.numel() == 48 * 32 // 2  # two weights a byte
    assert quantised.compute_dtype == getattr(torch, dtype)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    ids = torch.arange(12)[None]
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 7 * 2 and all("lora_" in n for n in trained)
    assert {p.grad.dtype for p in trained.values() if p.grad is not None} == {torch.float32}
    assert all(p.grad is not None for n, p in trained.items())


def test_an_evaluation_on_the_way_leaves_the_gradients_alone(configure: Configure) -> None:
    config = resolve_auto(configure(qlora=True, dtype="float32"), "cpu")
    model = add_lora(load_base(config, "cpu"), config)
    ids = torch.arange(12)[None]

    def gradients() -> list[torch.Tensor]:
        model.train()
        model.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.requires_grad and p.grad is not None]

    before = gradients()
    model.eval()
    with torch.inference_mode():
        model(input_ids=ids, use_cache=False)
    after = gradients()
    assert len(before) == len(after) == 28
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.slow
def test_a_qlora_training_learns_and_its_adapter_fits_the_full_base(
    configure: Configure, tmp_path: Path
) -> None:
    losses = {}
    for qlora in (False, True):
        config = configure(
            qlora=qlora, max_steps=20, out=tmp_path / str(qlora), evaluate_every=5, learning_rate=1e-2
        )
        assert train(config).document["hyperparameters"]["qlora"] is qlora
        lines = (config.out / "log.jsonl").read_text().splitlines()
        losses[qlora] = [json.loads(line)["loss"] for line in lines]
    learned = {qlora: found[0] - found[-1] for qlora, found in losses.items()}
    assert learned[False] > 0.2
    assert learned[True] == pytest.approx(learned[False], rel=0.25)
    base = AutoModelForCausalLM.from_pretrained(config.base, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = base(input_ids=ids).logits
    after = PeftModel.from_pretrained(base, str(config.out))(input_ids=ids).logits
    assert (after - before).abs().max() > 1e-3


@pytest.mark.slow
def test_the_adapter_is_measured_on_the_base_that_is_served(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[bool] = []
    measured: list[str] = []
    true_load, true_results = run.load_base, TrainingEvaluation.results

    def load(config: TrainingConfig, device: str) -> Any:
        loaded.append(config.qlora)
        return true_load(config, device)

    def results(self: TrainingEvaluation, model: Any, kept_step: int) -> Any:
        measured.append(type(model.base_model.model.model.layers[0].mlp.up_proj.base_layer).__name__)
        return true_results(self, model, kept_step)

    monkeypatch.setattr(run, "load_base", load)
    monkeypatch.setattr(TrainingEvaluation, "results", results)
    report = train(configure(qlora=True, max_steps=4))
    assert loaded == [True, False] and measured == ["Linear"]
    assert report.document["scores"]["adapter"]["turns"] == 4
