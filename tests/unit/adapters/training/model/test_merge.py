"""A merged model answers like base and adapter together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import demo
from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Renderer
from adapters.training.data.reader import read_conversations
from adapters.training.errors import MergeError
from adapters.training.evaluation.generate import answer_greedily
from adapters.training.evaluation.metrics import held_out_turns
from adapters.training.model.merge import merge
from adapters.training.training_run import train
from server.cli.main import main

ADAPTER = demo.ADAPTERS["acme-support"]


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("merged") / "acme"
    merge(demo.MODEL_DIR, ADAPTER.path, out, "float32")
    return out


def base() -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(demo.MODEL_DIR, dtype=torch.float32)


def logprobs(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    """Log-probability of every token after the first."""
    with torch.inference_mode():
        everything = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return everything.gather(1, torch.tensor(ids[1:]).unsqueeze(1))


@pytest.mark.slow
def test_merged_and_separate_agree(merged: Path) -> None:
    renderer = Renderer(AutoTokenizer.from_pretrained(merged), "<|im_end|>")
    turns = held_out_turns(renderer, read_conversations(ADAPTER.held_out), 20)
    one = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    two = PeftModel.from_pretrained(base(), str(ADAPTER.path))
    bare = base()
    for turn in turns:
        together, apart, without = (logprobs(m, turn.prompt + turn.target) for m in (one, two, bare))
        assert (together - apart).abs().max() < 1e-4
        assert (together - without).abs().max() > 1e-2

    def ask(model: object) -> list[tuple[int, ...]]:
        prompts = [turn.prompt for turn in turns]
        return answer_greedily(model, prompts, end_ids=[renderer.end_id], pad_id=0, max_new_tokens=48)

    assert ask(one) == ask(two)


def test_the_merged_folder_is_a_complete_model(merged: Path) -> None:
    names = {path.name for path in merged.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert not any(name.startswith("adapter") for name in names)
    template = (merged / "chat_template.jinja").read_bytes()
    assert template == (demo.MODEL_DIR / "chat_template.jinja").read_bytes()
    assert json.loads((merged / "config.json").read_text())["dtype"] == "float32"


def test_the_command_keeps_the_dtype_of_the_base(tmp_path: Path) -> None:
    out = tmp_path / "merged"
    command = ["adapter", "merge", "--base", "demo", "--adapter", str(ADAPTER.path), "--out", str(out)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "merged acme-support into model as bfloat16" in done.output
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1 and "is not an empty folder" in again.output


@pytest.mark.slow
def test_what_does_not_belong_together_is_not_merged(
    configure: Callable[..., TrainingConfig], tiny_base: Path, tmp_path: Path
) -> None:
    config = configure(measure=0, max_steps=2)
    train(config)
    with pytest.raises(MergeError, match="out: "):
        merge(demo.MODEL_DIR, config.out, tmp_path / "merged")
    other = tmp_path / "other"
    shutil.copytree(tiny_base, other)
    settings = json.loads((other / "config.json").read_text()) | {"rope_theta": 5.0}
    (other / "config.json").write_text(json.dumps(settings))
    with pytest.raises(MergeError, match="base"):
        merge(other, config.out, tmp_path / "merged")
    (other / "config.json").write_text(
        json.dumps(settings | {"quantization_config": {"quant_method": "awq"}})
    )
    with pytest.raises(MergeError, match=r"is quantised \(awq\)"):
        merge(other, config.out, tmp_path / "merged")
    with pytest.raises(MergeError, match="is not a base model"):
        merge(tmp_path, config.out, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
