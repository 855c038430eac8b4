"""Packed samples train as they do alone: same loss, same gradients, no attention across the boundary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, set_seed

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import IGNORED, Sample
from adapters.training.data.collator import collate, pack, pack_shared
from adapters.training.data.prepared import PreparedData
from adapters.training.loop.trainer import LoraTrainer, run_loop
from adapters.training.model.base_model import resolve_auto
from adapters.training.model.lora import add_lora

Configure = Callable[..., TrainingConfig]


def new_trainer(config: TrainingConfig, samples: list[Sample]) -> LoraTrainer:
    set_seed(config.seed)
    base = AutoModelForCausalLM.from_pretrained(config.base, dtype=torch.float32, attn_implementation="sdpa")
    if config.gradient_checkpointing:
        base.enable_input_require_grads()
    model = add_lora(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first; with a random one every matrix has a gradient
            torch.nn.init.normal_(parameter, std=0.1)
    return LoraTrainer(model=model, config=config, samples=samples, pad_id=0)


def loss_and_gradients(
    trainer: LoraTrainer, batches: list[dict[str, torch.Tensor]], tokens: int
) -> tuple[float, dict[str, torch.Tensor]]:
    model = trainer.model
    model.train()
    model.zero_grad()
    losses = [trainer.compute_loss(model, b, num_items_in_batch=torch.tensor(tokens)) for b in batches]
    torch.stack(losses).sum().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return float(sum(loss.item() for loss in losses)), grads


def test_packed_losses_and_gradients_are_those_of_samples_alone(
    configure: Configure, samples: list[Sample]
) -> None:
    trainer = new_trainer(configure(), samples)
    window = samples[:6]
    tokens = sum(s.trained_tokens for s in window)
    alone, apart = loss_and_gradients(trainer, [collate([s], 0) for s in window], tokens)
    packed, together = loss_and_gradients(trainer, [pack(window)], tokens)
    assert packed == pytest.approx(alone, abs=1e-5)
    assert together.keys() == apart.keys()
    for name, gradient in apart.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(together[name], gradient, rtol=1e-4, atol=1e-7)


def test_the_comparison_would_show_attention_across_samples(
    configure: Configure, samples: list[Sample]
) -> None:
    trainer = new_trainer(configure(), samples)
    window = samples[:6]
    tokens = sum(s.trained_tokens for s in window)
    packed, _ = loss_and_gradients(trainer, [pack(window)], tokens)
    borderless: dict[str, Any] = pack(window)
    borderless["position_ids"] = torch.arange(borderless["input_ids"].shape[1])[None]
    contaminated, _ = loss_and_gradients(trainer, [borderless], tokens)
    assert abs(contaminated - packed) > 1e-3


def test_no_sample_is_asked_for_the_first_token_of_the_next() -> None:
    row = pack([Sample((1, 2, 3), (IGNORED, 2, 3)), Sample((4, 5), (4, 5))])
    assert row["input_ids"].tolist() == [[1, 2, 3, 4, 5]]
    assert row["labels"].tolist() == [[IGNORED, 2, 3, IGNORED, 5]]
    assert row["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert set(row) == {"input_ids", "labels", "position_ids"}


@pytest.fixture
def branching(samples: list[Sample]) -> list[Sample]:
    """Samples with one common beginning, with a longer one for half of them, and with none."""

    def after(beginning: tuple[int, ...], sample: Sample) -> Sample:
        return Sample(beginning + sample.ids, (IGNORED,) * len(beginning) + sample.labels)

    tools, more = tuple(range(40, 60)), tuple(range(70, 80))
    window = [after(tools, s) for s in samples[:4]] + [after(tools + more, s) for s in samples[4:7]]
    return [*window, *samples[7:9], window[0]]


def test_a_shared_beginning_is_computed_once_with_the_losses_and_gradients_of_samples_alone(
    configure: Configure, branching: list[Sample]
) -> None:
    trainer = new_trainer(configure(), branching)
    tokens = sum(s.trained_tokens for s in branching)
    alone, apart = loss_and_gradients(trainer, [collate([s], 0) for s in branching], tokens)
    row = pack_shared(branching)
    assert row["input_ids"].shape[1] < sum(len(s.ids) for s in branching) - 5 * 20 - 2 * 10
    assert int((row["labels"] != IGNORED).sum()) == tokens
    shared, together = loss_and_gradients(trainer, [row], tokens)
    assert shared == pytest.approx(alone, abs=1e-5)
    for name, gradient in apart.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-4, atol=1e-7)
    del row["attention_mask"]
    blind, _ = loss_and_gradients(trainer, [row], tokens)
    assert abs(blind - alone) > 1e-4, "without the mask the losses are others"


def test_trained_tokens_and_the_token_before_them_are_not_shared() -> None:
    def sample(*ids: int) -> Sample:
        return Sample(ids, (IGNORED, IGNORED, IGNORED, *ids[3:]))

    row = pack_shared([sample(1, 2, 3, 5), sample(1, 2, 3, 4), sample(1, 2, 3, 4)])
    assert row["input_ids"].tolist() == [[1, 2, 3, 4, 3, 4, 3, 5]]
    assert row["labels"].tolist() == [[IGNORED, IGNORED, IGNORED, 4, IGNORED, 4, IGNORED, 5]]
    assert row["position_ids"].tolist() == [[0, 1, 2, 3, 2, 3, 2, 3]]
    assert row["attention_mask"][0, 0, -1].tolist() == [True, True, False, False, False, False, True, True]


def test_samples_with_the_same_beginning_are_told_what_saves_time(configure: Configure) -> None:
    tools = tuple(range(100))
    shared = [Sample((*tools, n, 1), (IGNORED,) * 101 + (1,)) for n in range(200, 220)]
    other = [Sample((n, *tools, 1), (IGNORED,) * 101 + (1,)) for n in range(200, 220)]
    config = resolve_auto(configure(), "cpu")

    def told(samples: list[Sample], config: TrainingConfig) -> bool:
        found = PreparedData(samples, [], 200, 0, 0).warnings(config)
        return any("--packing prefix --micro-batch-samples 8" in text for text in found)

    assert told(shared, config)
    assert not told(other, config)
    assert not told(shared, replace(config, packing="prefix"))


def losses_of(config: TrainingConfig, samples: list[Sample]) -> list[float]:
    trainer = new_trainer(config, samples)
    run_loop(trainer, "f")
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.slow
def test_a_packed_training_gives_the_same_losses(
    configure: Configure, samples: list[Sample], tmp_path: Any
) -> None:
    plain = losses_of(configure(micro_batch_samples=1, out=tmp_path / "a"), samples)
    for packing in ("on", "prefix"):
        config = configure(micro_batch_samples=4, packing=packing, out=tmp_path / packing)
        assert losses_of(config, samples) == pytest.approx(plain, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["off", "on", "prefix"])
def test_checkpointing_changes_memory_and_nothing_else(
    configure: Configure, samples: list[Sample], tmp_path: Any, packing: str
) -> None:
    common = {"micro_batch_samples": 4, "packing": packing, "max_steps": 4}
    plain = losses_of(configure(out=tmp_path / "a", **common), samples)
    saved = losses_of(configure(out=tmp_path / "b", gradient_checkpointing=True, **common), samples)
    assert saved == pytest.approx(plain, rel=1e-5)
    assert plain[-1] < plain[0]
