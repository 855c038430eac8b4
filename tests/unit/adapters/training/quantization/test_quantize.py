"""The content of a 4-bit checkpoint, and reading it back; tests/processes/test_awq.py serves one."""

from __future__ import annotations

import json
import math
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import demo
from adapters.training.errors import BaseModelError, DataError, MissingPackage, OutputError
from adapters.training.quantization.awq_weights import dequantize, is_awq
from adapters.training.quantization.calibration import generate_texts, perplexity, read_texts, split_texts
from adapters.training.quantization.quantize import Quantization, quantize
from adapters.training.quantization.search import packed_linear

CHAT = {"messages": [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi."}]}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(demo.MODEL_DIR)


def write(file: Path, *rows: object) -> Path:
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return file


@pytest.mark.parametrize("group_size", [32, 128])
def test_what_autoawq_packs_is_read_back_as_it_rounded_it(group_size: int) -> None:
    with warnings.catch_warnings(record=True):  # it warns that it is deprecated
        from awq.modules.linear import WQLinear_GEMM
        from awq.quantize.quantizer import AwqQuantizer

    torch.manual_seed(3)
    linear = torch.nn.Linear(256, 64, bias=group_size == 32).half()
    settings: Any = SimpleNamespace(group_size=group_size, zero_point=True, w_bit=4)
    rounded, scales, zeros = AwqQuantizer.pseudo_quantize_tensor(settings, linear.weight.data)
    linear.weight.data = rounded
    packed = WQLinear_GEMM.from_linear(
        linear, 4, group_size, scales=scales.t().contiguous(), zeros=zeros.t().contiguous()
    )
    read = dequantize(packed.qweight, packed.qzeros, packed.scales)
    assert torch.allclose(read, rounded.float(), atol=float(scales.max()) * 1e-2)
    assert (read - rounded.float()).abs().max() < 0.5 * scales.min(), "no code is off by one"
    ours = packed_linear(linear, scales, zeros, group_size)
    assert ours.state_dict().keys() == packed.state_dict().keys()
    for name, tensor in packed.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


def test_a_file_of_chats_and_texts(tokenizer: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", CHAT, {"text": "Hello there."}, CHAT)
    chat, text = read_texts(file, tokenizer)
    assert tokenizer.decode(chat) == tokenizer.apply_chat_template(CHAT["messages"], tokenize=False)
    assert tokenizer.decode(text) == "Hello there."


@pytest.mark.parametrize(
    ("line", "message"),
    [('{"text": 5}', "Line 2 has neither"), ("{", "Line 2 is not JSON"), ("[1]", "Line 2 has neither")],
)
def test_a_line_that_cannot_be_used_is_named(tokenizer: Any, tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text(f"{json.dumps(CHAT)}\n{line}\n")
    with pytest.raises(DataError, match=message):
        read_texts(file, tokenizer)


@pytest.mark.parametrize("blocks", [3, 64])
def test_nothing_is_measured_on_that_was_calibrated_with(blocks: int) -> None:
    texts = [list(range(at, at + 100)) for at in range(0, 2000, 100)]
    parts = split_texts(texts, block_tokens=64, blocks=blocks)
    assert [text[0] for text in parts.held_out] == [400, 900, 1400, 1900]
    assert len(parts.calibration) == min(blocks, 1600 // 64)
    assert all(len(block) == 64 for block in parts.calibration)
    used = [token for block in parts.calibration for token in block]
    assert used == [token for text in texts if text not in parts.held_out for token in text][: len(used)]


@pytest.mark.parametrize("texts", [[[1] * 500] * 4, [[1] * 10] * 5, []], ids=["few", "short", "none"])
def test_too_little_text_is_refused(texts: list[list[int]]) -> None:
    with pytest.raises(DataError, match=r"are too few\. Give at least 5 texts and 64 tokens"):
        split_texts(texts, block_tokens=64, blocks=9)


def test_the_perplexity_of_a_coin_is_two() -> None:
    def coin(row: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.zeros(1, row.shape[1], 2))

    coin.device = "cpu"  # type: ignore[attr-defined]
    assert perplexity(coin, [[0, 1, 1], [1]], most_tokens=9) == pytest.approx(2.0)


@pytest.mark.slow
def test_a_model_generates_its_own_texts(tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(demo.MODEL_DIR, dtype=torch.float32)
    texts = generate_texts(model, tokenizer, count=3, tokens=24)
    assert texts == generate_texts(model, tokenizer, count=3, tokens=24), "the same each time"
    assert len({tuple(text) for text in texts}) == 3
    told: list[tuple[int, int]] = []
    generate_texts(model, tokenizer, count=1, tokens=70, progress=lambda *done: told.append(done))
    assert told == [(32, 70), (64, 70)]
    assert all(tokenizer.decode(text).startswith("<|im_start|>user\n") for text in texts)
    # They are more likely than chance, because the model wrote them.
    assert perplexity(model, texts, most_tokens=99) < math.sqrt(model.config.vocab_size)


def test_what_cannot_be_quantized_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"no config\.json"):
        quantize(Quantization(tmp_path, tmp_path / "out"))
    with pytest.raises(BaseModelError, match="not a multiple of the group size 96"):
        quantize(Quantization(demo.MODEL_DIR, tmp_path / "out", group_size=96))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(OutputError, match="not empty"):
        quantize(Quantization(demo.MODEL_DIR, tmp_path / "full"))
    model = tmp_path / "model"
    shutil.copytree(demo.MODEL_DIR, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    assert is_awq(model) and not is_awq(demo.MODEL_DIR)
    with pytest.raises(BaseModelError, match="already quantized"):
        quantize(Quantization(model, tmp_path / "out"))


def test_a_missing_package_is_named_with_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "awq", None)
    with pytest.raises(MissingPackage, match=r"requirements/quantize\.txt"):
        quantize(Quantization(demo.MODEL_DIR, tmp_path / "out"))
