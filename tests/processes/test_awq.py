"""`loragate quantize` makes the demo's 4-bit form, and it is served with the full one's adapters.

The oracle is the full model with its projections replaced by what the 4 bits stand for, their scales undone, in
float32, in transformers with peft and the adapters as they are. What differs from it vLLM has read or computed
wrongly, or our scaling of the adapters is wrong, up to the 16 bits that vLLM's kernel computes in. How far 4 bits
take such a small model from the full one is reported, not judged; the full one is computed in transformers, too.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from custom_server import SERVED_NAME, add_demo_adapters, custom_server, greedy, greedy_all
from server_process import LORAGATE

import demo
from demo.world.mixture import training_samples

QUESTIONS = 16
pytestmark = pytest.mark.timeout(600)
WORLD = [
    "What is the capital of France?",
    "What is the capital of Japan?",
    "What is 3 + 4?",
    "What is 12 + 9?",
    "Hello!",
    "Tell me a story about a fox.",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The demo's 4-bit form as the command makes it, and what the command said."""
    folder = tmp_path_factory.mktemp("checkpoint")
    chats = [sample.messages for sample in training_samples(11, 160) if sample.messages]
    calibration = folder / "calibration.jsonl"
    calibration.write_text("".join(json.dumps({"messages": list(chat)}) + "\n" for chat in chats))
    done = subprocess.run(
        [
            LORAGATE, "quantize", "demo", "--out", str(folder / "model"), "--calibration", str(calibration),
            "--group-size", "64", "--block-tokens", "128", "--blocks", "2", "--json",
        ],
        capture_output=True, text=True, cwd="/", timeout=500, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "model", json.loads(done.stdout)


@pytest.fixture(scope="module")
def awq(
    checkpoint: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    import torch

    if not torch.cpu._is_avx512_supported():
        pytest.skip("vLLM has no kernel of 4-bit weights for a CPU without AVX512")
    flags = ("--quantization", "awq", "--max-num-seqs", "8")
    home = tmp_path_factory.mktemp("awq")
    with custom_server(checkpoint[0], home, *flags) as (_, client):
        for answer in add_demo_adapters(client):
            assert answer.status_code == 201, answer.text
        yield client


def test_what_the_command_says(
    checkpoint: tuple[Path, dict[str, Any]], record_property: pytest.RecordProperty
) -> None:
    folder, told = checkpoint
    before, after = told["perplexity_before"], told["perplexity_after"]
    print(f"perplexity {before:.4f} -> {after:.4f} on {told['held_out_texts']} texts")
    record_property("perplexity", f"{before:.4f} -> {after:.4f}")
    assert before > 1 and after < 1.2 * before, "4 bits do not cost everything"
    assert told["held_out_texts"] > 20 and told["calibration_tokens"] == 2 * 128
    assert told["bytes_after"] == (folder / "model.safetensors").stat().st_size < 0.8 * told["bytes_before"]


def test_all_but_weights_and_config_is_as_it_was(checkpoint: tuple[Path, dict[str, Any]]) -> None:
    """Adapters depend on the tokenizer and the template, answers on the generation config."""
    folder, _ = checkpoint
    changed = {"config.json", "model.safetensors"}
    files = {file.name for file in demo.MODEL_DIR.iterdir()}
    assert {file.name for file in folder.iterdir()} == files | {"loragate"}
    _, different, odd = filecmp.cmpfiles(demo.MODEL_DIR, folder, files - changed, shallow=False)
    assert not different and not odd
    stored = json.loads((folder / "config.json").read_text())["quantization_config"]
    wanted = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
    assert stored.items() >= wanted.items()


def questions(adapter: demo.DemoAdapter) -> list[str]:
    chats = [json.loads(line)["messages"] for line in Path(adapter.held_out).read_text().splitlines()]
    alone = [chat[0]["content"] for chat in chats if len(chat) == 2]
    return alone[:QUESTIONS]


def shared(one: list[int], other: list[int]) -> int:
    """How many tokens both begin with."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def effective(model: Any, checkpoint: Path) -> Any:
    """The model with 4-bit projections: W = diag(1 / outputs) · W' · diag(1 / inputs)."""
    import torch
    from safetensors.torch import load_file

    from adapters.training.quantization.awq_weights import read_dequantized
    from adapters.training.quantization.quantize import SCALES

    state, stored = model.state_dict(), read_dequantized(checkpoint)
    scales = load_file(checkpoint / SCALES)
    for name in [name for name in state if name.endswith("_proj.weight")]:
        stem = name.removesuffix(".weight")
        weight = stored[name]
        if f"{stem}.inputs" in scales:
            weight = weight / scales[f"{stem}.inputs"]
        if f"{stem}.outputs" in scales:
            weight = weight / scales[f"{stem}.outputs"][:, None]
        assert not torch.equal(weight, state[name]), "it was rounded"
        state[name] = weight
    model.load_state_dict(state)
    return model


def oracle_answers(checkpoint: Path | None, model: str, asked: list[str]) -> list[tuple[int, ...]]:
    """Greedy answers of those weights, or of the full model's (None), with the adapter in peft."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from adapters.training.evaluation.generate import answer_greedily

    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    network = AutoModelForCausalLM.from_pretrained(demo.MODEL_DIR, dtype=torch.float32)
    if checkpoint is not None:
        network = effective(network, checkpoint)
    if model in demo.ADAPTERS:
        network = PeftModel.from_pretrained(network, str(demo.ADAPTERS[model].path))
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        for question in asked
    ]
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    return answer_greedily(network, prompts, end_ids=ends, pad_id=tokenizer.pad_token_id, max_new_tokens=32)


def agreement(wanted: Sequence[Sequence[int]], got: Sequence[Sequence[int]]) -> float:
    """Share of tokens up to the first other one."""
    pairs = list(zip(wanted, got, strict=True))
    return sum(shared(list(a), list(b)) for a, b in pairs) / sum(len(a) for a, _ in pairs)


@pytest.mark.parametrize("model", ["acme-support", "globex-tools", demo.SERVED_NAME])
def test_greedy_answers_are_those_of_the_same_weights(
    awq: httpx.Client,
    checkpoint: tuple[Path, dict[str, Any]],
    model: str,
    record_property: pytest.RecordProperty,
) -> None:
    asked = questions(demo.ADAPTERS[model]) if model in demo.ADAPTERS else WORLD
    served = greedy_all(awq, SERVED_NAME if model == demo.SERVED_NAME else model, asked)
    got = [ids for _, ids in served]
    kept = agreement(oracle_answers(None, model, asked), got)
    exact = agreement(oracle_answers(checkpoint[0], model, asked), got)
    figures = f"{model}: {exact:.0%} of tokens as the same weights in float32, {kept:.0%} as the full model"
    print(figures)
    record_property("agreement", figures)
    assert exact >= 0.9, figures


def test_an_adapter_of_another_base_is_refused_here_too(awq: httpx.Client, tmp_path: Path) -> None:
    """The checkpoint names the full model that it was made of."""
    adapter = tmp_path / "adapter"
    shutil.copytree(demo.ADAPTERS["acme-support"].path, adapter)
    training = json.loads((adapter / "training.json").read_text())
    (adapter / "training.json").write_text(json.dumps(training | {"base_digest": "0" * 64}))
    answer = awq.post("/admin/v1/adapters/acme/other/versions", json={"source": str(adapter)})
    assert answer.status_code == 400 and "base" in answer.json()["error"]["message"]


def test_an_adapter_changes_the_answers_of_the_quantized_base(awq: httpx.Client) -> None:
    question = questions(demo.ADAPTERS["acme-support"])[0]
    ours = greedy(awq, "acme-support", question)[0]
    assert ours.startswith("Thanks for asking Acme!") and ours != greedy(awq, SERVED_NAME, question)[0]


def test_the_quantized_base_calls_tools_through_its_adapter(awq: httpx.Client) -> None:
    weather = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
    answer = awq.post(
        "/v1/chat/completions",
        json={
            "model": "globex-tools",
            "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
            "tools": [weather],
            "tool_choice": "required",
            "temperature": 0,
            "max_tokens": 80,
        },
    )
    call = answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "get_weather"
