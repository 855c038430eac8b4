"""The searches of AWQ: the same bounds as AutoAWQ's, on fewer tokens, and kept for a run that resumes."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from adapters.training.quantization.search import (
    SEARCH_TOKENS,
    KeptResults,
    best_clip,
    search_fingerprint,
    some_tokens,
)


@pytest.mark.parametrize("group_size", [32, 64])
def test_the_clipping_bounds_are_those_of_autoawq(group_size: int) -> None:
    with warnings.catch_warnings(record=True):  # it warns that it is deprecated
        from awq.quantize.quantizer import AwqQuantizer

    torch.manual_seed(1)
    weights = torch.randn(256, 128) * (1 + 5 * (torch.rand(256, 128) > 0.98))
    inputs = torch.randn(4, 150, 128) * torch.rand(128)
    settings: Any = SimpleNamespace(group_size=group_size, zero_point=True, w_bit=4)
    settings.pseudo_quantize_tensor = lambda w: AwqQuantizer.pseudo_quantize_tensor(settings, w)
    theirs = AwqQuantizer._compute_best_clip(settings, weights, inputs)
    ours = best_clip(
        weights, inputs, group_size, lambda w: AwqQuantizer.pseudo_quantize_tensor(settings, w)[0]
    )
    assert ours.shape == theirs.shape and float((ours < weights.abs().amax()).float().mean()) > 0.5
    assert float((ours != theirs).float().mean()) < 0.01, "only equal errors may be decided otherwise"


def test_a_search_sees_some_tokens_of_all_texts_and_attention_whole_texts() -> None:
    x = torch.arange(8 * 512).view(8, 512, 1).float()
    rows, outputs, _ = some_tokens(x, 2 * x, {})
    assert rows.shape == (1, SEARCH_TOKENS, 1) and torch.equal(outputs, 2 * rows)
    assert float(rows.max()) > 7 * 512
    # AutoAWQ flattens both with `view`, which needs tensors without gaps.
    assert rows.is_contiguous() and outputs.is_contiguous()
    assert some_tokens(x[:3, :500], x[:3, :500], {})[0].shape[1] == 750, "every second one of 1,500"
    mask = torch.zeros(8, 1)
    rows, outputs, kwargs = some_tokens(x, x, {"mask": mask, "cos": torch.zeros(1, 512)})
    assert len(rows) == len(outputs) == len(kwargs["mask"]) == 2 and len(kwargs["cos"]) == 1


def test_a_second_run_finds_what_the_first_one_kept(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    first = KeptResults(tmp_path / "kept", 2, lambda *done: told.append(done))
    first.find(0, "scale a", lambda: torch.ones(3))
    first.find(0, "clip b", lambda: torch.zeros(2))
    first.finish(0)
    first.find(1, "scale a", lambda: torch.full((3,), 2.0))  # interrupted before the block was finished
    second = KeptResults(tmp_path / "kept", 2, lambda *done: told.append(done))
    assert second.find(0, "scale a", lambda: pytest.fail("searched again")).tolist() == [1.0] * 3
    second.finish(0)
    assert second.find(1, "scale a", lambda: torch.zeros(3)).tolist() == [0.0] * 3
    second.finish(1)
    assert told == [(1, 2), (1, 2), (2, 2)]


def test_other_texts_are_another_search() -> None:
    assert search_fingerprint("a", [[1]], 64) != search_fingerprint("a", [[2]], 64)
    assert search_fingerprint("a", [[1]], 64) != search_fingerprint("b", [[1]], 64)
