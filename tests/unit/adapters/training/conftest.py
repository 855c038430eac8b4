"""A tiny random Qwen2 with the embedded model's tokenizer, and samples for it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import demo
from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import IGNORED, Sample

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model folder; 2 layers, hidden 32."""
    out = tmp_path_factory.mktemp("tiny-base")
    vocab = json.loads((demo.MODEL_DIR / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(demo.MODEL_DIR / name, out / name)
    return out


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """Twenty-four samples of different lengths and different shares of trained tokens."""
    draw = random.Random(3)
    found = []
    for _ in range(24):
        prompt = tuple(draw.randrange(300) for _ in range(draw.randint(1, 12)))
        target = tuple(draw.randrange(300) for _ in range(draw.randint(1, 9)))
        found.append(Sample(prompt + target, (IGNORED,) * len(prompt) + target))
    return found


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL of forty chats."""
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": f"{i}!"}]}
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def configure(tiny_base: Path, chats: Path, tmp_path: Path) -> Callable[..., TrainingConfig]:
    """A small configuration, with what a test changes."""

    def make(**changes: object) -> TrainingConfig:
        settings: dict[str, object] = {
            "base": tiny_base, "data": chats, "out": tmp_path / "out", "rank": 4, "alpha": 8,
            "batch_samples": 8, "max_steps": 6, "learning_rate": 1e-2, "held_out_share": 0.2,
            "measure": 4, "max_new_tokens": 4,
        }  # fmt: skip
        return TrainingConfig(**(settings | changes))  # type: ignore[arg-type]

    return make
