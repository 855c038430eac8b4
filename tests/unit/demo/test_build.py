"""The recipe still runs: a shortened build on a fraction of the steps and questions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.build import Recipe, build
from demo.muon import orthogonalise


def test_a_shortened_build_learns_and_leaves_a_model(tmp_path: Path) -> None:
    recipe = Recipe(
        steps=24, batch_tokens=512, layers=2, hidden=64, held_out=8, warmup=4, tokenizer_samples=1500
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


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
def test_an_update_is_nearly_orthogonal(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(orthogonalise(torch.randn(2, *shape)))
    assert singular.min() > 0.3
    assert singular.max() < 1.4
