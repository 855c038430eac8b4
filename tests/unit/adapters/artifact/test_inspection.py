from __future__ import annotations

import dataclasses
import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.artifact import ArtifactReport, BaseShape, inspect_artifact
from adapters.errors import ArtifactRefused
from tests.unit.adapters.building import (
    BASE,
    Tensors,
    bits,
    encode,
    make_config,
    make_tensors,
    rename_keys,
    write_adapter,
)

QWEN3 = dataclasses.replace(BASE, model_type="qwen3", tied=False)
Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


def inspect(folder: Path, **options: Any) -> ArtifactReport:
    return inspect_artifact(folder, **{"base": BASE, "max_lora_rank": 16, **options})


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(ArtifactRefused) as caught:
        inspect(folder, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence and str(folder) not in sentence and len(sentence) < 400
    return sentence


def test_a_whole_adapter_is_described(tmp_path: Path) -> None:
    training = {"base_digest": "abc", "scores": {"adapter": 0.97}}
    report = inspect(write_adapter(tmp_path, training=training), base_digest="abc")
    assert (report.rank, report.alpha, report.scaling, report.dtype) == (4, 8.0, 2.0, "F32")
    assert report.target_modules == (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    assert report.size_bytes == (tmp_path / "adapter_model.safetensors").stat().st_size
    assert report.parameters == sum(array.size for _, array in make_tensors().values())
    assert report.training == training
    assert report.config["target_modules"] == sorted(report.target_modules)
    assert "base_model_name_or_path" not in report.config


def _only(*leaves: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if any(leaf in n for leaf in leaves)}


@pytest.mark.parametrize(
    ("change", "pick"),
    [
        ({}, dict),
        ({"lora_alpha": 8.5, "use_rslora": True}, dict),
        ({"target_modules": ["q_proj", "v_proj"]}, _only("q_proj", "v_proj")),
        ({"target_modules": ["self_attn.q_proj"]}, _only("q_proj")),
        ({"target_modules": r".*\.(q|v)_proj"}, _only("q_proj", "v_proj")),
        ({"layers_to_transform": [1], "layers_pattern": "layers"}, _only("layers.1.")),
        ({"layers_to_transform": 0}, _only("layers.0.")),
        ({"exclude_modules": ["down_proj"]}, _only("self_attn", "gate", "up")),
        ({"init_lora_weights": "gaussian"}, dict),
        ({"init_lora_weights": "EVA", "eva_config": {"rho": 2.0}}, dict),
        ({"rank_pattern": {"layers.0.self_attn.q_proj": 4}, "alpha_pattern": {r".*v_proj": 16}}, dict),
        ({"runtime_config": {"ephemeral_gpu_offload": False}, "unsloth_fixed": True}, dict),
        ({"auto_mapping": {"base_model_class": "Qwen2ForCausalLM"}, "task_type": None}, dict),
    ],
)
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_what_vllm_serves_exactly_is_accepted(
    tmp_path: Path, change: dict[str, Any], pick: Callable[[Tensors], Tensors], dtype: str
) -> None:
    folder = write_adapter(tmp_path, pick(make_tensors(dtype=dtype)), make_config(**change))
    assert inspect(folder).dtype == dtype


def test_scaling_follows_the_patterns_and_rslora(tmp_path: Path) -> None:
    assert inspect(write_adapter(tmp_path, config=make_config(use_rslora=True))).scaling == 4.0
    tensors = make_tensors()
    for side, shape in (("A", (12, 32)), ("B", (32, 12))):
        tensors[f"{Q0}{side}.weight"] = ("F32", bits(np.ones(shape), "F32"))
    config = make_config(rank_pattern={r"layers\.0\.self_attn\.q_proj": 12})
    assert inspect(write_adapter(tmp_path, tensors, config)).rank == 12
    assert "Rank 12 is above --max-lora-rank 8" in refusal(tmp_path, max_lora_rank=8)


def test_frameworks_leave_other_files_about(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path)
    for name in (
        "README.md",
        "training_args.bin",
        "tokenizer.json",
        "trainer_state.json",
        "all_results.json",
    ):
        (folder / name).write_text("…")
    (folder / "checkpoint-100").mkdir()
    inspect(folder)


CONFIG_REFUSALS: list[tuple[dict[str, Any], str]] = [
    (
        {"r": 64},
        "Rank 64 is above --max-lora-rank 16; restart with --max-lora-rank 64 or retrain with r <= 16",
    ),
    ({"r": 33}, "restart with --max-lora-rank 64"),
    ({"r": 0}, "r = 0; a rank must be a whole number above 0"),
    ({"r": True}, "r = true"),
    ({"r": None}, "r = null"),
    ({"rank_pattern": {"q_proj": 0}}, "rank_pattern of q_proj = 0"),
    ({"rank_pattern": {"q_proj": 32}}, "Rank 32 is above"),
    ({"rank_pattern": {"(": 4}}, "unreadable pattern"),
    ({"rank_pattern": {"x" * 1001: 4}}, "has 1001 characters, above 1000"),
    ({"alpha_pattern": [1]}, "it must be an object"),
    ({"rank_pattern": {f"m{n}": 4 for n in range(3000)}}, "has 3000 entries"),
    ({"lora_alpha": 0}, "lora_alpha is 0, so the adapter changes nothing"),
    ({"lora_alpha": -4}, "above 0"),
    ({"lora_alpha": "16"}, "above 0"),
    ({"alpha_pattern": {"q_proj": 0}}, "alpha_pattern of q_proj is 0"),
    ({"use_dora": True}, "DoRA cannot be served; retrain as plain LoRA with use_dora=False"),
    ({"bias": "all"}, "bias=all cannot be served; retrain as plain LoRA with bias='none'"),
    ({"bias": "lora_only"}, "bias=lora_only"),
    ({"lora_bias": True}, "LoRA with biases"),
    ({"modules_to_save": ["lm_head"]}, 'modules_to_save: ["lm_head"]'),
    ({"trainable_token_indices": [5]}, "Trained tokens"),
    (
        {"init_lora_weights": "pissa"},
        "init_lora_weights=pissa: PiSSA moved a part of the base model's weights",
    ),
    ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4: PiSSA moved"),
    ({"init_lora_weights": "olora"}, "OLoRA moved"),
    ({"init_lora_weights": "corda"}, "CorDA moved"),
    ({"init_lora_weights": "lora_ga", "lora_ga_config": {"scale": "stable"}}, "LoRA-GA moved"),
    ({"init_lora_weights": "loftq"}, "PEFT cannot convert it; retrain"),
    ({"init_lora_weights": "next_idea"}, "is not a value that this server knows"),
    ({"init_lora_weights": ["pissa"]}, "is not a value that this server knows"),
    ({"alora_invocation_tokens": [1, 2]}, "aLoRA"),
    ({"use_bdlora": {"nblocks": 2}}, "Block-diagonal"),
    ({"use_qalora": True}, "QALoRA"),
    ({"layer_replication": [[0, 2]]}, "layer_replication"),
    ({"target_parameters": ["q_proj.weight"]}, "target_parameters"),
    ({"arrow_config": {"top_k": 1}}, "Arrow"),
    ({"velora_config": {"scale": 1}}, "VeLoRA"),
    ({"kasa_config": {"beta": 1}}, "KaSA"),
    ({"monteclora_config": {"num_samples": 1}}, "MonteCLoRA"),
    ({"use_newest_trick": True}, "use_newest_trick asks for a LoRA variant that this server does not know"),
    (
        {"peft_type": "LOHA"},
        "This is a LOHA adapter; only LoRA can be served. Convert it with PEFT's save_as_lora",
    ),
    ({"peft_type": "ADALORA"}, "ADALORA"),
    ({"task_type": "SEQ_CLS"}, "trained for SEQ_CLS"),
    ({"target_modules": []}, "names no target_modules"),
    ({"target_modules": {"a": 1}}, "must be a list of module names"),
    ({"layers_to_transform": ["1"]}, "it must be a list of layer numbers"),
]


@pytest.mark.parametrize(("change", "told"), CONFIG_REFUSALS, ids=lambda value: str(value)[:40])
def test_a_configuration_that_cannot_be_served_is_refused(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    assert told in refusal(write_adapter(tmp_path, config=make_config(**change)))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "\x00", '{"r": NaN}', '{"r": 1, "r": 2}', "[" * 100_000, "nul"]
)
def test_a_configuration_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    write_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text(text)
    assert "adapter_config.json " in refusal(tmp_path)


def test_a_bloated_configuration_is_not_read(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"x": "y" * (5 << 20)}))
    assert "is larger than 4 MiB" in refusal(tmp_path)


PREFIXES = [
    ("base_model.model.model.", "base_model.model._orig_mod.model.", "left there by torch.compile"),
    ("base_model.model.", "_orig_mod.base_model.model.", "left there by torch.compile"),
    ("base_model.model.", "base_model.model._fsdp_wrapped_module.", "left there by FSDP"),
    ("layers.0.", "layers.0._checkpoint_wrapped_module.", "left there by activation checkpointing"),
    ("base_model.model.", "module.base_model.model.", "left there by DataParallel or DeepSpeed"),
    ("base_model.model.model.", "base_model.model.", "Tensor names lack '.model.'"),
    ("base_model.model.model.", "model.", "does not start with base_model.model."),
    (
        "base_model.model.",
        "base_model.model.base_model.model.",
        "The base model has no layer base_model.model",
    ),
    (
        "model.layers",
        "model.language_model.layers",
        "The base model has no layer model.language_model.layers.0",
    ),
    ("layers.1.", "layers.9.", "The adapter has layer 9, but the base model has layers 0 to 1"),
    ("q_proj", "w_proj", "LoRA on w_proj cannot be served"),
    ("self_attn.q_proj", "mlp.q_proj", "The base model has no layer model.layers.0.mlp.q_proj"),
    ("layers.1.", "layers.01.", "The base model has no layer model.layers.01."),
    ("lora_A.weight", "lora_A.default.weight", "contain the adapter's name (default)"),
    ("lora_A.weight", "lora_A.weight.default", "no LoRA factor"),
    ("lora_A.weight", "lora_magnitude_vector", "no LoRA factor"),
]


@pytest.mark.parametrize(("old", "new", "told"), PREFIXES, ids=lambda value: value[:44])
def test_tensor_names_that_would_match_no_layer_are_refused(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    tensors = rename_keys(make_tensors(), lambda name: name.replace(old, new, 1))
    assert told in refusal(write_adapter(tmp_path, tensors))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("base_model.model.model.embed_tokens.base_layer.weight", "the base model's own weights"),
        ("base_model.model.lm_head.base_layer.weight", "the base model's own weights"),
        ("base_model.model.lm_head.weight", "is a whole layer, not a LoRA factor"),
        ("base_model.model.model.norm.weight", "is a whole layer"),
        ("base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias", "base model's own weights"),
        ("base_model.model.lm_head.modules_to_save.weight", "is a whole layer"),
        ("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", "no LoRA factor"),
        ("x\ny" * 200, "is no LoRA factor"),
    ],
)
def test_tensors_beyond_the_factors_are_refused(tmp_path: Path, name: str, told: str) -> None:
    tensors = {**make_tensors(), name: ("F32", bits(np.ones((4, 4)), "F32"))}
    assert told in refusal(write_adapter(tmp_path, tensors))


@pytest.mark.parametrize("module", ["lm_head", "model.embed_tokens"])
def test_embedding_lora_is_served_on_qwen3_only(tmp_path: Path, module: str) -> None:
    sizes = (32, 100) if module == "lm_head" else (100, 32)
    sides = (
        ("lora_A.weight", "lora_B.weight")
        if module == "lm_head"
        else ("lora_embedding_A", "lora_embedding_B")
    )
    tensors = make_tensors()
    tensors[f"base_model.model.{module}.{sides[0]}"] = ("F32", bits(np.ones((4, sizes[0])), "F32"))
    tensors[f"base_model.model.{module}.{sides[1]}"] = ("F32", bits(np.ones((sizes[1], 4)), "F32"))
    write_adapter(tmp_path, tensors)
    leaf = module.rpartition(".")[2]
    assert f"LoRA on {leaf} cannot be served on Qwen2" in refusal(tmp_path)
    assert leaf in inspect(tmp_path, base=QWEN3).target_modules
    larger = dataclasses.replace(QWEN3, vocab_size=120)
    assert "but the base model maps" in refusal(tmp_path, base=larger)


def test_an_adapter_of_a_smaller_or_larger_base_is_refused(tmp_path: Path) -> None:
    smaller = dataclasses.replace(BASE, hidden_size=16, head_dim=4)
    told = refusal(write_adapter(tmp_path, make_tensors(smaller)))
    assert "maps 16 to 16 values, but the base model maps 32 to 32; it was trained on a smaller base" in told
    larger = dataclasses.replace(BASE, intermediate_size=128)
    assert "a larger base" in refusal(write_adapter(tmp_path, make_tensors(larger)))
    deeper = dataclasses.replace(BASE, layers=3)
    assert "The adapter has layer 2" in refusal(write_adapter(tmp_path, make_tensors(deeper)))


def test_missing_layers_of_a_deeper_base_are_noticed(tmp_path: Path) -> None:
    deeper = dataclasses.replace(BASE, layers=3)
    assert "targets model.layers.2.self_attn.q_proj" in refusal(write_adapter(tmp_path), base=deeper)


def test_a_rank_unlike_the_tensors_is_refused(tmp_path: Path) -> None:
    told = refusal(write_adapter(tmp_path, config=make_config(r=8)))
    assert "has rank 4 in adapter_model.safetensors but 8 in adapter_config.json" in told


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    for lacking in "AB":
        tensors = make_tensors()
        del tensors[f"{Q0}{lacking}.weight"]
        assert f"but no lora_{lacking}" in refusal(write_adapter(tmp_path, tensors))


@pytest.mark.parametrize("shape", [(0, 32), (4, 0), (0,), (128,), (1, 4, 32)])
def test_empty_and_flat_tensors_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensors = make_tensors()
    tensors[f"{Q0}A.weight"] = ("F32", bits(np.ones(shape), "F32"))
    assert "are empty or flat" in refusal(write_adapter(tmp_path, tensors))


@pytest.mark.parametrize("side", "AB")
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_an_adapter_that_changes_nothing_is_refused(tmp_path: Path, side: str, zero: float) -> None:
    tensors = {
        name: (dtype, bits(np.full(array.shape, zero), dtype) if f"lora_{side}" in name else array)
        for name, (dtype, array) in make_tensors().items()
    }
    assert "changes nothing" in refusal(write_adapter(tmp_path, tensors))


def test_one_untrained_layer_is_no_reason_to_refuse(tmp_path: Path) -> None:
    tensors = make_tensors()
    tensors[f"{Q0}B.weight"] = ("F32", bits(np.zeros((32, 4)), "F32"))
    inspect(write_adapter(tmp_path, tensors))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(
    ("value", "told"), [(np.nan, "NaN"), (-np.nan, "NaN"), (np.inf, "an infinity"), (-np.inf, "an infinity")]
)
@pytest.mark.parametrize("place", [0, 63, -1])
def test_values_that_are_not_finite_are_refused(
    tmp_path: Path, dtype: str, value: float, told: str, place: int
) -> None:
    tensors = make_tensors(dtype=dtype)
    values = np.ones((64, 4))
    values.flat[place] = value
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    tensors[name] = (dtype, bits(values, dtype))
    assert refusal(write_adapter(tmp_path, tensors)).startswith(f"{name} contains {told}; training diverged")


def test_the_largest_finite_values_pass(tmp_path: Path) -> None:
    for dtype, largest in (("F32", 0x7F7FFFFF), ("F16", 0x7BFF), ("BF16", 0x7F7F)):
        tensors = make_tensors(dtype=dtype)
        kind = tensors[f"{Q0}A.weight"][1].dtype
        tensors[f"{Q0}A.weight"] = (dtype, np.full((4, 32), largest, kind))
        inspect(write_adapter(tmp_path, tensors))


def test_another_base_is_refused_by_its_digest(tmp_path: Path) -> None:
    write_adapter(tmp_path, training={"base_digest": "f" * 64})
    told = refusal(tmp_path, base_digest="a" * 64)
    assert "trained on base model ffffffffffff" in told and "this server has aaaaaaaaaaaa" in told
    inspect(tmp_path, base_digest=None)
    write_adapter(tmp_path, training={})
    inspect(tmp_path, base_digest="a" * 64)


@pytest.mark.slow
def test_fifty_megabytes_take_less_than_a_second(tmp_path: Path) -> None:
    base = dataclasses.replace(
        BASE, layers=44, hidden_size=1024, intermediate_size=2816, heads=16, kv_heads=4, head_dim=64
    )
    tensors = make_tensors(base, rank=16)
    folder = write_adapter(tmp_path, tensors, config=make_config(r=16))
    size_bytes = (folder / "adapter_model.safetensors").stat().st_size
    began_s = time.process_time()  # of this process: a busy machine makes nothing slower
    inspect(folder, base=base)
    assert size_bytes > 50e6
    assert time.process_time() - began_s < 1.0


def test_the_size_is_capped(tmp_path: Path) -> None:
    size = inspect(write_adapter(tmp_path)).size_bytes
    inspect(tmp_path, max_bytes=size)
    assert f"has {size} bytes, above the limit of {size - 1}" in refusal(tmp_path, max_bytes=size - 1)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["adapter_config.json", "adapter_model.bin"], "adapter_model.bin is a pickle"),
        (["adapter_config.json", "adapter_model.pt"], "adapter_model.pt is a pickle"),
        (["adapter_config.json"], "There is no adapter_model.safetensors; give the folder"),
        (["adapter_config.json", "adapter_model-00001-of-00002.safetensors"], "split over several files"),
        (["config.json", "model.safetensors"], "This is a whole model (as merging an adapter makes it)"),
        (["config.json", "model-00001-of-00002.safetensors"], "This is a whole model"),
        (["config.json", "pytorch_model.bin.index.json"], "This is a whole model"),
        (["model-q4_k_m.gguf"], "This is a whole model"),
        (["sub/adapter_config.json"], "its sub-folder sub; give the path of that folder"),
        (["a/b/adapter_config.json", "model.safetensors"], "its sub-folder a/b; give"),
        (
            [f"checkpoint-{n}/adapter_config.json" for n in range(9)],
            "checkpoint-2 and 6 more; give the path of one",
        ),
        ([], "There is no adapter_model.safetensors"),
    ],
)
def test_folders_that_are_no_adapter_are_refused(tmp_path: Path, names: list[str], told: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert told in refusal(tmp_path)


def test_a_merged_model_in_an_adapters_file_is_refused(tmp_path: Path) -> None:
    merged = {f"model.{module}.weight": ("F32", bits(np.ones((4, 4)), "F32")) for module in ("norm", "x")}
    assert "this is a merged or a whole model" in refusal(write_adapter(tmp_path, merged))


def test_a_missing_configuration_is_refused(tmp_path: Path) -> None:
    (write_adapter(tmp_path) / "adapter_config.json").unlink()
    assert "There is no adapter_config.json" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "training.json"])
def test_links_and_special_files_are_not_followed(tmp_path: Path, name: str) -> None:
    folder = write_adapter(tmp_path / "a", training={})
    outside = tmp_path / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    assert f"{name} is a link; copy the folder" in refusal(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)  # opening one for reading would block for ever
    assert "is not a regular file" in refusal(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    assert "is not a regular file" in refusal(folder)


def _header(entries: Any, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def _entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4], **changes}


DAMAGED = [
    (b"", "has only 0 bytes"),
    (b"\x00" * 9, "has only 9 bytes"),
    (b"\x00" * 4096, "header cannot be read"),
    (b"\xff" * 4096, "header cannot be read"),
    (b"PK\x03\x04" + b"\x00" * 4096, "header cannot be read"),
    (_header(b"{" + b" " * 40), "not readable as JSON"),
    (_header({}), "holds no tensors"),
    (_header({"__metadata__": {}}), "holds no tensors"),
    (_header({"x": 1}), "the entry of tensor x is not valid"),
    (_header({"x": []}), "the entry of tensor x is not valid"),
    (_header({"x": _entry(shape=[-1, 1])}, b"1234"), "is not valid"),
    (_header({"x": _entry(shape=[True, 1])}, b"1234"), "is not valid"),
    (_header({"x": _entry(shape=[1.0, 1])}, b"1234"), "is not valid"),
    (_header({"x": _entry(data_offsets=[0, 2**60])}, b"1234"), "is not valid"),
    (_header({"x": _entry(data_offsets=[4, 0])}, b"1234"), "does not fit its shape"),
    (_header({"x": _entry(shape=[2, 1])}, b"1234"), "does not fit its shape"),
    (_header({"x": _entry(dtype="I8")}, b"1234"), "Tensor x has type I8; save the adapter as F32"),
    (_header({"x": _entry(dtype="F8_E4M3")}, b"1234"), "F8_E4M3"),
    (_header({"x": _entry(dtype=["F32"])}, b"1234"), 'has type ["F32"]'),
    (_header({"x": _entry(), "y": _entry()}, b"1234"), "overlap or leave gaps"),
    (_header({"x": _entry(data_offsets=[4, 8])}, b"12345678"), "overlap or leave gaps"),
    (_header({"x": _entry()}, b"123"), "is truncated"),
    (_header({"x": _entry()}, b"12345"), "1 bytes follow the last tensor"),
    (_header(b'{"x": {"dtype": "F32"}, "x": {}}'), "not readable as JSON"),
]


@pytest.mark.parametrize(("content", "told"), DAMAGED, ids=lambda value: str(value)[:40])
def test_a_damaged_weights_file_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    write_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(content)
    assert told in refusal(tmp_path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = encode(make_tensors())
    write_adapter(tmp_path)
    for length in (*range(0, len(whole), 997), len(whole) - 1):
        (tmp_path / "adapter_model.safetensors").write_bytes(whole[:length])
        refusal(tmp_path)


def test_shapes_come_from_a_models_configuration(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen3",
        "num_hidden_layers": 28,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    shape = BaseShape.from_config(path)  # Qwen3-0.6B: heads are wider than hidden_size / heads
    assert shape.projections == {
        "q_proj": (1024, 2048),
        "k_proj": (1024, 1024),
        "v_proj": (1024, 1024),
        "o_proj": (2048, 1024),
        "gate_proj": (1024, 3072),
        "up_proj": (1024, 3072),
        "down_proj": (3072, 1024),
    }
    assert len(shape.modules()) == 28 * 7
    path.write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(ValueError, match="'llama' is not one of qwen2, qwen3"):
        BaseShape.from_config(path)
