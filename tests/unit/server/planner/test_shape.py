"""Counts of shapes against what is published, and where a config comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import demo
from server.planner.errors import ModelUnknown, ModelUnplanned
from server.planner.models import find_shape, known_models
from server.planner.shape import ModelShape, QuantizationScheme

#: Parameters as the safetensors metadata on the hub counts them.
PUBLISHED = {
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
}


@pytest.mark.parametrize("model", sorted(PUBLISHED))
def test_parameters_are_those_that_are_published(model: str) -> None:
    assert find_shape(model).parameters == PUBLISHED[model]


def test_kv_bytes_of_the_issue() -> None:
    """2 (K and V) x 36 layers x 2048 tokens x 2 heads x 128 x 2 bytes."""
    assert find_shape("Qwen/Qwen2.5-3B").kv_bytes_per_token(2) * 2048 == 75_497_472


def test_the_embedded_model_is_counted_as_its_file_has_it() -> None:
    shape = find_shape(str(demo.MODEL_DIR))
    file = demo.MODEL_DIR / "model.safetensors"
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    sizes = [tensor["shape"] for name, tensor in header.items() if name != "__metadata__"]
    stored = sum(size[0] * (size[1] if len(size) > 1 else 1) for size in sizes)
    assert shape.parameters == stored


def test_lora_parameters_are_those_of_a_real_adapter() -> None:
    folder = Path(demo.__file__).parent / "adapters" / "acme-support"
    with (folder / "adapter_model.safetensors").open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    rank = json.loads((folder / "adapter_config.json").read_text())["r"]
    stored = sum(t["shape"][0] * t["shape"][1] for name, t in header.items() if name != "__metadata__")
    assert find_shape(str(demo.MODEL_DIR)).lora_parameters(rank) == stored


def test_qwen3_slots_cover_embeddings_and_head() -> None:
    small, other = find_shape("Qwen/Qwen3-0.6B"), find_shape("Qwen/Qwen2.5-0.5B")
    assert small.slot_parameters(8) - small.lora_parameters(8) == 2 * 8 * (151_936 + 1024)
    assert other.slot_parameters(8) == other.lora_parameters(8)


def test_two_devices_share_a_slot_without_losing_any_of_it() -> None:
    shape = find_shape("Qwen/Qwen2.5-7B")
    one, two = shape.slot_parameters(16), shape.slot_parameters(16, devices=2)
    assert one / 2 < two < one


def test_awq_weighs_what_its_layout_says() -> None:
    awq = QuantizationScheme.of("awq")
    assert awq.weight_bytes(1024, 512) == 1024 * 512 // 2 + 8 * 512 * 2 + 8 * 512 // 2
    shape = find_shape("Qwen/Qwen2.5-7B-Instruct-AWQ")
    assert shape.quantization == awq
    assert 5.4e9 < shape.weight_bytes(2, awq) < 5.7e9, "the checkpoint on the hub has 5.57 GB"


def test_known_models_are_all_dense_and_complete() -> None:
    assert len(known_models()) > 35
    for config in known_models().values():
        assert ModelShape.from_config(config).parameters > 4e8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_experts": 8}, "num_experts"),
        ({"hidden_size": None}, "hidden_size"),
        ({"quantization_config": {"quant_method": "hqq"}}, "hqq"),
    ],
)
def test_what_has_no_arithmetic_is_refused(change: dict[str, object], words: str) -> None:
    config = {**known_models()["Qwen/Qwen2.5-3B"], **change}
    with pytest.raises(ModelUnplanned, match=words):
        ModelShape.from_config(config)


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnknown, match=r"config\.json"):
        find_shape(str(tmp_path))
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ModelUnknown, match="not an object"):
        find_shape(str(tmp_path))


def test_any_other_dense_decoder_in_a_folder(tmp_path: Path) -> None:
    config = {
        "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192, "vocab_size": 128_256,
        "tie_word_embeddings": True, "max_position_embeddings": 131_072, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert find_shape(str(tmp_path)).parameters == 1_235_814_400, "Llama 3.2 1B, as published"
