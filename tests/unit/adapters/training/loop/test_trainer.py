"""The loop: its loss, its accumulation, and a plain PyTorch loop as the oracle."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, set_seed

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import IGNORED, Sample
from adapters.training.data.collator import collate
from adapters.training.loop.trainer import LoraTrainer, run_loop
from adapters.training.model.lora import add_lora

Configure = Callable[..., TrainingConfig]
PAD = 0


def new_model(config: TrainingConfig) -> Any:
    set_seed(config.seed)
    return add_lora(AutoModelForCausalLM.from_pretrained(config.base, dtype=torch.float32), config)


def new_trainer(config: TrainingConfig, samples: list[Sample]) -> LoraTrainer:
    return LoraTrainer(model=new_model(config), config=config, samples=samples, pad_id=PAD)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_the_loss_is_the_mean_over_trained_tokens_of_full_logits(
    configure: Configure, samples: list[Sample]
) -> None:
    trainer = new_trainer(configure(), samples)
    batch = collate(samples[:5], PAD)
    tokens = sum(s.trained_tokens for s in samples[:5])
    ours = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(tokens))
    logits = trainer.model(input_ids=batch["input_ids"]).logits[:, :-1]
    theirs = cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)


def test_eight_times_one_gives_the_gradients_of_one_times_eight(
    configure: Configure, samples: list[Sample]
) -> None:
    trainer = new_trainer(configure(), samples)
    model, window = trainer.model, samples[:8]
    # Other lengths, other shares: normalising by sample instead of by token would show.
    assert len({s.trained_tokens for s in window}) > 3
    # B starts as zero; with a random B every matrix gets a gradient.
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tokens = torch.tensor(sum(s.trained_tokens for s in window))
    trainer.compute_loss(model, collate(window, PAD), num_items_in_batch=tokens).backward()
    together = gradients(model)
    model.zero_grad()
    for sample in window:
        trainer.compute_loss(model, collate([sample], PAD), num_items_in_batch=tokens).backward()
    apart = gradients(model)
    assert together.keys() == apart.keys()
    for name, gradient in together.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(apart[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_the_trainer_itself_accumulates_like_that(
    configure: Configure, samples: list[Sample], tmp_path: Any
) -> None:
    logs = []
    for micro in (1, 8):
        trainer = new_trainer(
            configure(micro_batch_samples=micro, out=tmp_path / str(micro), max_steps=4), samples
        )
        run_loop(trainer, "f")
        logs.append([(r["loss"], r["grad_norm"]) for r in trainer.state.log_history if "loss" in r])
    assert len(logs[0]) == 4
    for one, eight in zip(*logs, strict=True):
        assert one == pytest.approx(eight, rel=1e-4)


def plain_loop(config: TrainingConfig, batches: list[list[dict[str, torch.Tensor]]]) -> list[float]:
    """The oracle, in plain PyTorch. ``batches``: for each step, the batches of its window."""
    model = new_model(config)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)
    steps = len(batches)
    warmup = math.ceil(config.warmup_share * steps)

    def scale(step: int) -> float:
        if step < warmup:
            return step / max(1, warmup)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    losses = []
    for window in batches:
        tokens = sum(int((b["labels"][:, 1:] != IGNORED).sum()) for b in window)
        total = 0.0
        for batch in window:
            logits = model(input_ids=batch["input_ids"]).logits[:, :-1].flatten(0, 1)
            wanted = batch["labels"][:, 1:].flatten()
            loss = cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum") / tokens
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("micro", [1, 4])
def test_losses_equal_those_of_a_plain_loop(configure: Configure, samples: list[Sample], micro: int) -> None:
    config = configure(micro_batch_samples=micro, max_steps=9, warmup_share=0.25, max_grad_norm=0.05)
    trainer = new_trainer(config, samples)
    run_loop(trainer, "f")
    ours = [row["loss"] for row in trainer.state.log_history if "loss" in row]

    per_epoch = len(samples) // config.batch_samples
    fresh = new_trainer(config, samples)
    batches = []
    loader = fresh.get_train_dataloader()
    for epoch in range(3):
        loader.set_epoch(epoch)
        drawn = list(loader)
        batches += [drawn[i * config.accumulation : (i + 1) * config.accumulation] for i in range(per_epoch)]
    theirs = plain_loop(config, batches)
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert ours[-1] < ours[0]
