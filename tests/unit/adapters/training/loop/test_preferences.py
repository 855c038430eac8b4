"""Training on pairs of answers: the loss is DPO's, it works on the embedded model, and a resumed run is the same."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import killed_training
import pytest
import torch
from torch.nn.functional import logsigmoid
from transformers import set_seed

import demo
from adapters.training import training_run as run
from adapters.training.config import TrainingConfig
from adapters.training.data.dataset import load_renderer, prepare
from adapters.training.data.jsonl import read_steps
from adapters.training.evaluation.held_out_pairs import answer_log_probabilities
from adapters.training.loop.trainer import create_trainer
from adapters.training.model.base_model import load_base, resolve_auto
from adapters.training.model.lora import add_lora

pytest.importorskip("trl")

Configure = Callable[..., TrainingConfig]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pairs: the better answer shouts."""
    draw = random.Random(1)
    words = ["apple", "stone", "river", "cloud", "table", "green", "seven", "music"]
    rows = []
    for i in range(40):
        word = " ".join(draw.sample(words, 2))
        rows.append({"prompt": f"Repeat {i}: {word}", "chosen": word.upper(), "rejected": word})
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def trainer_of(config: TrainingConfig) -> tuple[Any, Any]:
    config = resolve_auto(config, "cpu")
    renderer = load_renderer(config)
    data = prepare(config, renderer)
    set_seed(config.seed)
    model = add_lora(load_base(config, "cpu"), config)
    return create_trainer(model, config, data, renderer, None, ()), data


@pytest.mark.slow
def test_the_loss_is_that_of_the_paper_against_the_starting_adapter(
    configure: Configure, pairs: Path, tmp_path: Path
) -> None:
    """-log sigmoid(beta (gain of chosen - gain of rejected)); the reference is the adapter, not the bare base."""
    start = configure(out=tmp_path / "start", measure=0, held_out_share=0.0)
    run.train(start)
    config = configure(
        data=(), preferences=pairs, start_from=start.out, beta=0.5, held_out_share=0.0, micro_batch_samples=4
    )
    trainer, data = trainer_of(config)
    model = trainer.model
    assert not any(".ref." in n for n, p in model.named_parameters() if p.requires_grad)
    samples = [s for pair in data.preferences.pairs[:4] for s in pair.samples()]
    before = answer_log_probabilities(model, samples, 0).view(-1, 2)
    batch = trainer.data_collator([trainer.train_dataset[at] for at in range(4)])
    model.train()
    assert float(trainer.compute_loss(model, batch).detach()) == pytest.approx(0.693147, abs=1e-5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B.default" in name:
                parameter.add_(0.02 * torch.randn_like(parameter))
    gain = answer_log_probabilities(model, samples, 0).view(-1, 2) - before
    expected = -logsigmoid(0.5 * (gain[:, 0] - gain[:, 1])).mean()
    assert abs(float(expected) - 0.6931) > 1e-3
    assert float(trainer.compute_loss(model, batch).detach()) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.slow
def test_on_the_embedded_model_better_answers_become_the_likelier_ones(pairs: Path, tmp_path: Path) -> None:
    config = TrainingConfig(
        base=demo.MODEL_DIR, out=tmp_path / "out", preferences=pairs, rank=8, batch_samples=8, epochs=6,
        learning_rate=2e-3, held_out_share=0.2, measure=4, max_new_tokens=8, micro_batch_samples=4,
    )  # fmt: skip
    record = run.train(config).document
    scores = record["pairs"]
    assert scores["adapter"]["won"] >= 0.9 and scores["adapter"]["preferred"] > scores["base"]["preferred"]
    assert scores["adapter"]["preference_loss"] < 0.4
    assert (record["hyperparameters"]["beta"], record["data"]["generated_pairs"]) == (0.1, 0)
    steps = read_steps(config.out / "log.jsonl")
    assert steps[0]["loss"] == pytest.approx(0.6931, abs=1e-3) and steps[-1]["won"] == 1.0
    assert "right_token_probability" not in steps[0] and steps[-1]["margin"] > 0
    assert sorted(p.name for p in config.out.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "evaluations.jsonl",
        "generations.jsonl", "grad_norm.png", "log.jsonl", "loss.png", "training.json",
    ]  # fmt: skip
    card = (config.out / "README.md").read_text()
    assert "pairs of answers (DPO, beta 0.1)" in card and "better answer more probable per token" in card


@pytest.mark.slow
def test_a_resumed_training_of_pairs_is_the_same(
    configure: Configure, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"data": (), "preferences": pairs, "measure": 0, "learning_rate": 1e-3}
    whole = configure(out=tmp_path / "whole", **settings)
    run.train(whole)
    killed = configure(out=tmp_path / "killed", checkpoint_every=2, **settings)
    killed_training.kill_at(monkeypatch, killed, 5)
    assert run.train(killed).steps == 6
    killed_training.assert_same(whole.out, killed.out)
    assert killed_training.steps_logged(killed.out) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_better_answer_alone_is_compared_with_the_starting_models_own(
    configure: Configure, tmp_path: Path
) -> None:
    file = tmp_path / "feedback.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": f"{i}!"}],
         "request_id": str(i), "rating": "up" if i % 2 else "down"}
        for i in range(12)
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = run.train(configure(data=(), preferences=file, held_out_share=0.0, measure=0, max_steps=2))
    data = report.document["data"]
    assert data["generated_pairs"] == data["pairs"] == 12 and data["already_preferred"] == 0
