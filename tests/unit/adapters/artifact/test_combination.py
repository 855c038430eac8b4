"""Combinations: the sum of the scaled updates, exactly, whatever ranks, alphas, types and modules the parts have."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.artifact import inspect_artifact
from adapters.artifact.combination import Combination, ScaledArtifact, combine
from adapters.errors import ArtifactRefused
from tests.unit.adapters.building import BASE, Tensors, make_config, make_tensors, write_adapter

LIMIT = 1 << 20


def values(dtype: str, array: np.ndarray) -> np.ndarray:
    """The numbers that a tensor's bits stand for."""
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.view(np.float16 if dtype == "F16" else np.float32).astype(np.float64)


def read(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of a written F32 file."""
    raw = (folder / "adapter_model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    entries = json.loads(raw[8 : 8 + length])
    data = raw[8 + length :]
    return {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], np.float32).reshape(entry["shape"])
        for name, entry in entries.items()
    }


def update(tensors: dict[str, np.ndarray], module: str, scaling: float = 1.0) -> np.ndarray:
    name = f"base_model.model.{module}.lora_"
    return scaling * (
        tensors[f"{name}B.weight"].astype(np.float64) @ tensors[f"{name}A.weight"].astype(np.float64)
    )


def numbers(tensors: Tensors) -> dict[str, np.ndarray]:
    return {name: values(dtype, array) for name, (dtype, array) in tensors.items()}


def combined(into: Path, parts: list[ScaledArtifact], **options: Any) -> Combination:
    into.mkdir()
    return combine(parts, into, **{"base": BASE, "max_lora_rank": 16, "max_bytes": LIMIT} | options)


def test_it_is_the_sum_of_the_scaled_updates_and_can_be_served(tmp_path: Path) -> None:
    first = make_tensors(seed=1)
    second = make_tensors(rank=8, seed=2, dtype="BF16")
    third = make_tensors(rank=2, seed=3, dtype="F16")
    parts = [
        ScaledArtifact(write_adapter(tmp_path / "a", first, make_config()), 1.5),
        ScaledArtifact(
            write_adapter(tmp_path / "b", second, make_config(r=8, lora_alpha=3, use_rslora=True)), -0.5
        ),
        ScaledArtifact(write_adapter(tmp_path / "c", third, make_config(r=2, lora_alpha=2)), 0.3),
    ]
    result = combined(tmp_path / "out", parts)
    assert result == Combination(rank=14, relative_error=0.0)
    report = inspect_artifact(tmp_path / "out", base=BASE, max_lora_rank=16)
    assert (report.rank, report.scaling, report.dtype) == (14, 1.0, "F32")
    got = read(tmp_path / "out")
    for module in BASE.modules():
        expected = update(numbers(first), module, 1.5 * 2)
        expected += update(numbers(second), module, -0.5 * 3 / math.sqrt(8))
        expected += update(numbers(third), module, 0.3)
        np.testing.assert_allclose(update(got, module), expected, rtol=1e-5, atol=1e-8)


def test_modules_ranks_and_alphas_may_differ(tmp_path: Path) -> None:
    queries = {name: value for name, value in make_tensors(seed=1).items() if ".q_proj." in name}
    one_layer = {name: value for name, value in make_tensors(seed=2).items() if ".layers.1." in name}
    wide = "base_model.model.model.layers.1.mlp.up_proj.lora_"
    wider = make_tensors(rank=6, seed=3)
    one_layer |= {name: wider[name] for name in (f"{wide}A.weight", f"{wide}B.weight")}
    config = make_config(
        layers_to_transform=[1], rank_pattern={"up_proj": 6}, alpha_pattern={"up_proj": 3, "o_proj": 1}
    )
    parts = [
        ScaledArtifact(write_adapter(tmp_path / "a", queries, make_config(target_modules=["q_proj"])), 1.0),
        ScaledArtifact(write_adapter(tmp_path / "b", one_layer, config), 2.0),
    ]
    assert combined(tmp_path / "out", parts).rank == 8
    report = inspect_artifact(tmp_path / "out", base=BASE, max_lora_rank=8)
    assert len(report.modules) == 8 and report.rank == 8
    got = read(tmp_path / "out")
    layer = "model.layers.1."
    for module, expected in {
        "model.layers.0.self_attn.q_proj": update(numbers(queries), "model.layers.0.self_attn.q_proj", 2),
        f"{layer}self_attn.q_proj": update(numbers(queries), f"{layer}self_attn.q_proj", 2)
        + update(numbers(one_layer), f"{layer}self_attn.q_proj", 2 * 2),
        f"{layer}mlp.up_proj": update(numbers(one_layer), f"{layer}mlp.up_proj", 2 * 3 / 6),
        f"{layer}self_attn.o_proj": update(numbers(one_layer), f"{layer}self_attn.o_proj", 2 * 1 / 4),
    }.items():
        np.testing.assert_allclose(update(got, module), expected, rtol=1e-5, atol=1e-8)
    # The stored configuration, which names leaves only, can be combined again.
    (tmp_path / "out" / "adapter_config.json").write_text(json.dumps(report.config))
    again = combined(tmp_path / "again", [ScaledArtifact(tmp_path / "out", 1.0)])
    assert again.rank == 8
    for name, value in read(tmp_path / "again").items():
        np.testing.assert_array_equal(value, got[name])


def test_a_reduction_is_the_best_of_its_rank_and_says_its_error(tmp_path: Path) -> None:
    parts = [
        ScaledArtifact(write_adapter(tmp_path / name, make_tensors(seed=seed)), 1.0)
        for seed, name in enumerate("ab")
    ]
    combined(tmp_path / "exact", parts)
    result = combined(tmp_path / "out", parts, reduce_rank=5)
    assert result.rank == 5
    exact, got = read(tmp_path / "exact"), read(tmp_path / "out")
    whole = lost = best = 0.0
    for module in BASE.modules():
        sizes = np.linalg.svd(update(exact, module), compute_uv=False)
        whole += float(np.sum(sizes**2))
        best += float(np.sum(sizes[5:] ** 2))
        lost += float(np.sum((update(exact, module) - update(got, module)) ** 2))
    assert lost == pytest.approx(best, rel=1e-3)
    assert result.relative_error == pytest.approx(math.sqrt(best / whole), rel=1e-3)
    assert 0.1 < result.relative_error < 1
    assert inspect_artifact(tmp_path / "out", base=BASE, max_lora_rank=8).rank == 5


def test_two_equal_adapters_lose_nothing_in_a_reduction(tmp_path: Path) -> None:
    part = ScaledArtifact(write_adapter(tmp_path / "a", make_tensors()), 0.5)
    assert combined(tmp_path / "out", [part, part], reduce_rank=4).relative_error < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_lora_rank": 7}, r"add up to 8, above --max-lora-rank 7; .*--reduce-rank 7"),
        ({"max_bytes": 1000}, r"would have \d+ bytes, above the limit of 1000"),
    ],
)
def test_limits_are_told(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    parts = [ScaledArtifact(write_adapter(tmp_path / name, make_tensors()), 1.0) for name in "ab"]
    with pytest.raises(ArtifactRefused, match=message):
        combined(tmp_path / "out", parts, **options)
    assert not list((tmp_path / "out").iterdir())


def test_it_ends_when_it_is_stopped(tmp_path: Path) -> None:
    def stop() -> None:
        raise InterruptedError

    part = ScaledArtifact(write_adapter(tmp_path / "a"), 1.0)
    with pytest.raises(InterruptedError):
        combined(tmp_path / "out", [part], stop=stop)
