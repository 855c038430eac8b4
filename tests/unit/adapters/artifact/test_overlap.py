"""The cosine between an adapter and its base model, from files in every precision and division."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adapters.artifact.overlap import overlap, overlap_hint
from tests.unit.adapters.building import BASE, Tensors, bits, encode, make_tensors, write_adapter

MODULE = "model.layers.0.self_attn.q_proj"
OTHER = "model.layers.1.mlp.up_proj"


def factors(module: str, a: np.ndarray, b: np.ndarray, dtype: str = "F32") -> Tensors:
    return {
        f"base_model.model.{module}.lora_A.weight": (dtype, bits(a, dtype)),
        f"base_model.model.{module}.lora_B.weight": (dtype, bits(b, dtype)),
    }


def weights(sizes: tuple[int, int], seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.02, sizes[::-1]).astype("<f4")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    return folder


def write_base(base: Path, dtype: str = "F32") -> np.ndarray:
    whole = {f"{name}.weight": (dtype, bits(weights(sizes), dtype)) for name, sizes in BASE.modules().items()}
    (base / "model.safetensors").write_bytes(encode(whole))
    return weights(BASE.modules()[MODULE])


def largest_part(matrix: np.ndarray, rank: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A and B of the matrix of this rank that is nearest to `matrix`, as PiSSA starts."""
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    return np.sqrt(sizes[:rank, None]) * right[:rank], left[:, :rank] * np.sqrt(sizes[:rank])


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("base_dtype", ["F32", "F16", "BF16"])
def test_the_cosine_is_that_of_the_matrices(tmp_path: Path, base: Path, dtype: str, base_dtype: str) -> None:
    matrix = write_base(base, base_dtype)
    a, b = largest_part(matrix)
    adapter = write_adapter(tmp_path / "adapter", factors(MODULE, a, b, dtype))
    wanted = float((b @ a * matrix).sum() / np.linalg.norm(b @ a) / np.linalg.norm(matrix))
    assert wanted > 0.3 and overlap(adapter, base) == pytest.approx(wanted, abs=0.01)
    hint = overlap_hint(adapter, base)
    assert hint is not None and f"cosine {wanted:.1f}"[:-1] in hint and "pissa_converted" in hint


def test_an_adapter_that_started_at_zero_has_next_to_none(tmp_path: Path, base: Path) -> None:
    write_base(base)
    adapter = write_adapter(tmp_path / "adapter", make_tensors())
    found = overlap(adapter, base)
    assert found is not None and abs(found) < 0.1  # chance alone gives 0.03 for 32 × 32 weights


def test_a_divided_base_is_read_through_its_index_and_links(tmp_path: Path, base: Path) -> None:
    matrix = write_base(base)
    (base / "model.safetensors").rename(tmp_path / "blob")
    (base / "model-00001-of-00001.safetensors").symlink_to(tmp_path / "blob")
    index = {"weight_map": {f"{MODULE}.weight": "model-00001-of-00001.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    adapter = write_adapter(tmp_path / "adapter", factors(MODULE, *largest_part(matrix)))
    assert (overlap(adapter, base) or 0) > 0.3
    unknown = write_adapter(tmp_path / "unknown", factors(OTHER, *largest_part(weights((32, 64)))))
    assert overlap(unknown, base) is None


@pytest.mark.parametrize("content", [None, b"", b"x" * 99])
def test_a_base_that_cannot_be_read_gives_no_hint(tmp_path: Path, base: Path, content: bytes | None) -> None:
    if content is not None:
        (base / "model.safetensors").write_bytes(content)
    assert overlap(write_adapter(tmp_path / "adapter"), base) is None
    write_base(base)
    assert (
        overlap(
            write_adapter(tmp_path / "embedding", {"x.lora_A.weight": ("F32", bits(np.ones((2, 2)), "F32"))}),
            base,
        )
        is None
    )
