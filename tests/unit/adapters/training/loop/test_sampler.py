"""The order of samples: random over the steps, by length within a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.data_loader import SeedableRandomSampler
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Sample
from adapters.training.loop.sampler import LongestFirst
from adapters.training.loop.trainer import LoraTrainer
from adapters.training.model.lora import add_lora

Configure = Callable[..., TrainingConfig]


def of_length(length: int) -> Sample:
    return Sample(ids=(1,) * length, labels=(1,) * length)


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=60),
    window=st.integers(1, 16),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 5),
)
def test_every_step_keeps_its_samples_and_sees_the_longest_first(
    lengths: list[int], window: int, seed: int, epoch: int
) -> None:
    samples = [of_length(length) for length in lengths]
    ours, random = LongestFirst(samples, window, seed), SeedableRandomSampler(samples, data_seed=seed)
    ours.set_epoch(epoch)
    random.set_epoch(epoch)
    order, without = list(ours), list(random)
    assert len(order) == len(ours) == len(samples)
    for start in range(0, len(order), window):
        step = order[start : start + window]
        assert sorted(step) == sorted(without[start : start + window])
        seen = [lengths[at] for at in step]
        assert seen == sorted(seen, reverse=True)


def test_epochs_differ(samples: list[Sample]) -> None:
    ours = LongestFirst(samples, 8, seed=3)
    first = list(ours)
    assert list(ours) != first  # the next epoch differs, as with accelerate's sampler
    ours.set_epoch(0)
    assert list(ours) == first


def passes(config: TrainingConfig, samples: list[Sample]) -> list[list[tuple[int, ...]]]:
    """The first epoch's forward passes in the trainer's order, each as the trained ids of its samples."""
    model = add_lora(AutoModelForCausalLM.from_pretrained(config.base), config)
    loader = LoraTrainer(model=model, config=config, samples=samples, pad_id=0).get_train_dataloader()
    return [[tuple(row.tolist()) for row in batch["labels"]] for batch in loader]


@pytest.mark.parametrize("micro", [2, 4])
def test_padded_passes_of_the_trainer_are_of_like_length(
    configure: Configure, samples: list[Sample], tmp_path: Path, micro: int
) -> None:
    one = passes(configure(out=tmp_path / "one"), samples)
    many = passes(configure(out=tmp_path / "many", micro_batch_samples=micro), samples)
    held = sum(len(s.ids) for s in samples)
    padded = sum(len(row) for rows in many for row in rows)
    in_turn = sum(
        micro * max(len(rows[0]) for rows in one[at : at + micro]) for at in range(0, len(one), micro)
    )
    assert sum(len(rows[0]) for rows in one) == held
    assert held <= padded < in_turn


def test_each_step_of_padded_passes_holds_the_samples_it_would_hold_alone(
    configure: Configure, samples: list[Sample], tmp_path: Path
) -> None:
    def trained(rows: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return sorted(tuple(i for i in row if i >= 0) for row in rows)

    one = passes(configure(out=tmp_path / "one"), samples)
    many = passes(configure(out=tmp_path / "many", micro_batch_samples=4), samples)
    for step in range(len(samples) // 8):
        alone = [rows[0] for rows in one[step * 8 : (step + 1) * 8]]
        together = [row for rows in many[step * 2 : (step + 1) * 2] for row in rows]
        assert trained(alone) == trained(together)
