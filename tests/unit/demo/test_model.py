"""The committed model and adapters: shape, size, scores, and that they really answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

import demo
from adapters.artifact.digests import base_digest, file_digest, template_digest
from adapters.training.evaluation.generate import answer_greedily
from demo.random_adapter import write_random_adapter

torch.set_num_threads(1)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(demo.MODEL_DIR)


def own_task(score: dict[str, Any]) -> float:
    """What the adapter is for: calls where its chats have calls, exact answers otherwise."""
    return float(score["exact"] if score["tool_calls"] is None else score["tool_calls"])


def load() -> Any:
    return AutoModelForCausalLM.from_pretrained(demo.MODEL_DIR, dtype=torch.float32)


def answer(model: Any, tokenizer: Any, question: str, **kwargs: Any) -> str:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False, **kwargs
    )
    ends = model.generation_config.eos_token_id
    (ids,) = answer_greedily(model, [prompt], end_ids=ends, pad_id=tokenizer.pad_token_id, max_new_tokens=400)
    assert ids[-1] == tokenizer.eos_token_id
    return tokenizer.decode(ids[:-1])


def test_the_shape_is_a_servable_qwen2() -> None:
    config = read(demo.MODEL_DIR / "config.json")
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["tie_word_embeddings"] is True
    assert config["max_position_embeddings"] >= 2048
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    # Head sizes of vLLM 0.32's CPU attention.
    assert config["hidden_size"] // config["num_attention_heads"] in (32, 64)
    weights = demo.MODEL_DIR / "model.safetensors"
    assert weights.stat().st_size <= 16_000_000
    with safe_open(weights, "pt") as tensors:
        assert {str(tensors.get_tensor(name).dtype) for name in tensors.keys()} == {"torch.bfloat16"}  # noqa: SIM118
        assert "lm_head.weight" not in tensors.keys()  # noqa: SIM118


def test_generation_stops_at_both_end_tokens(tokenizer: Any) -> None:
    generation = read(demo.MODEL_DIR / "generation_config.json")
    assert tokenizer.convert_ids_to_tokens(generation["eos_token_id"]) == ["<|im_end|>", "<|endoftext|>"]
    assert tokenizer.convert_ids_to_tokens([generation["pad_token_id"]]) == ["<|endoftext|>"]
    assert generation["do_sample"] is False


def test_the_stored_scores_are_good_and_belong_to_this_recipe() -> None:
    scores = read(demo.MODEL_DIR / "scores.json")
    assert scores["count"] >= 400
    assert scores["exact_match"] >= 0.75
    for family in ("capitals", "opposites", "unknown", "stories"):
        assert scores["families"][family]["exact_match"] >= 0.9, family
    config = read(demo.MODEL_DIR / "config.json")
    assert scores["recipe"]["layers"] == config["num_hidden_layers"]


@pytest.mark.slow
def test_the_base_answers(tokenizer: Any) -> None:
    model = load()
    assert answer(model, tokenizer, "What is the capital of France?") == "The capital of France is Paris."
    assert answer(model, tokenizer, "What is the capital of Japan?") == "The capital of Japan is Tokyo."
    assert answer(model, tokenizer, "What is 7 plus 5?") == "7 plus 5 is 12."
    story = answer(model, tokenizer, "Tell me a long story about a fox.")
    assert story.endswith("The end.")
    assert len(tokenizer.encode(story)) > 150


@pytest.mark.parametrize("adapter", demo.ADAPTERS.values(), ids=lambda a: a.public_name)
def test_the_adapters_were_trained_on_this_base_and_data(adapter: demo.DemoAdapter) -> None:
    record = read(adapter.path / "training.json")
    assert record["base_digest"] == base_digest(demo.MODEL_DIR)
    assert record["template_digest"] == template_digest(demo.MODEL_DIR)
    assert record["data_digest"] == file_digest(adapter.data)
    assert record["held_out_digest"] == file_digest(adapter.held_out)
    assert own_task(record["scores"]["adapter"]) >= 0.9
    assert own_task(record["scores"]["base"]) <= 0.2
    assert (adapter.path / "adapter_model.safetensors").stat().st_size < 3_000_000


@pytest.mark.slow
def test_the_same_prompt_is_answered_in_each_customers_way(tokenizer: Any) -> None:
    base = load()
    for question in ("Hello!", "What is the price of the Anvil Mini?"):
        answers = set()
        for adapter in demo.ADAPTERS.values():
            model = PeftModel.from_pretrained(load(), str(adapter.path))
            answers.add(answer(model, tokenizer, question))
        assert len(answers) == 2, answers
    acme = PeftModel.from_pretrained(base, str(demo.ADAPTERS["acme-support"].path))
    assert "49 dollars" in answer(acme, tokenizer, "What is the price of the Anvil Mini?")


def test_random_adapters_are_distinct_and_repeatable(tokenizer: Any, tmp_path: Path) -> None:
    question = "What is the capital of France?"
    plain = answer(load(), tokenizer, question)
    seen = set()
    for seed in range(3):
        out = write_random_adapter(tmp_path / str(seed), seed=seed)
        again = write_random_adapter(tmp_path / f"{seed}-again", seed=seed)
        assert file_digest(out / "adapter_model.safetensors") == file_digest(
            again / "adapter_model.safetensors"
        )
        model = PeftModel.from_pretrained(load(), str(out))
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        (ids,) = answer_greedily(
            model,
            [prompt],
            end_ids=[tokenizer.eos_token_id],
            pad_id=tokenizer.pad_token_id,
            max_new_tokens=12,
        )
        seen.add(tokenizer.decode(ids))
    assert len(seen) == 3
    assert plain not in seen


def test_a_random_adapter_of_small_scale_is_nearly_the_base(tokenizer: Any, tmp_path: Path) -> None:
    out = write_random_adapter(tmp_path, seed=1, rank=4, scale=0.001)
    model = PeftModel.from_pretrained(load(), str(out))
    assert answer(model, tokenizer, "What is the capital of France?") == "The capital of France is Paris."
