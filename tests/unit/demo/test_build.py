"""The recipe still runs: a shortened build on a fraction of the steps and questions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from demo.architecture import look_back
from demo.build import Recipe, build
from demo.muon import orthogonalise


@pytest.mark.slow
def test_a_shortened_build_learns_and_leaves_a_model(tmp_path: Path) -> None:
    recipe = Recipe(
        steps=24,
        words_steps=12,
        batch_tokens=512,
        layers=2,
        hidden=64,
        held_out=8,
        warmup=4,
        tokenizer_samples=1500,
    )
    report = build(recipe, tmp_path)
    assert report["last_loss"] < report["first_loss"] - 1.0
    assert report["count"] == 8
    assert json.loads((tmp_path / "scores.json").read_text()) == report
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16
    assert len(tokenizer) <= model.config.vocab_size
    assert model.generation_config.eos_token_id[0] == tokenizer.eos_token_id


def test_a_new_model_attends_to_previous_tokens() -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=256,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",
    )
    model = Qwen2ForCausalLM(config)
    look_back(model)
    with torch.no_grad():
        (weights,) = model(input_ids=torch.randint(50, (1, 40)), output_attentions=True).attentions
    for head, distance in enumerate((1, 2, 0, 3)):
        by_distance = [weights[0, head].diagonal(-back).mean().item() for back in range(6)]
        assert by_distance.index(max(by_distance)) == distance, by_distance
        assert by_distance[distance] > 0.3


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
def test_an_update_is_nearly_orthogonal(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(orthogonalise(torch.randn(2, *shape)))
    assert singular.min() > 0.3
    assert singular.max() < 1.4
