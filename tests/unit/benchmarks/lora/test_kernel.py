"""The kernel benchmark: its layers, its limits and its last line."""

from __future__ import annotations

import json

import pytest

from benchmarks.harness import shapes
from benchmarks.lora import kernel

TINY = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}


def test_layers_are_packed_as_vllm_packs_them() -> None:
    found = {p.name: (p.width, p.slices) for p in kernel._projections(shapes.load("qwen2.5-0.5b"))}
    assert found == {
        "qkv_proj": (896, (896, 128, 128)),
        "o_proj": (896, (896,)),
        "gate_up_proj": (896, (4864, 4864)),
        "down_proj": (4864, (896,)),
    }


@pytest.mark.slow
def test_a_run_ends_in_one_line_of_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shapes, "load", lambda name: TINY)
    options = ["--threads", "1", "--repeats", "1", "--prompt-tokens", "4", "--rank", "2"]
    assert kernel.main(options) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    figures = report["figures"]
    # 16*32 + 16*16 + 16*48 + 24*16 weights; rank 2 adds 2 * (16*3+32 + 16+16 + 16*2+48 + 24+16).
    assert figures["kernel_tax_prefill_limit"] == pytest.approx(1920 / (1920 + 464), abs=1e-4)
    assert figures["kernel_tax_decode_limit"] == pytest.approx(1920 / (1920 + 4 * 464), abs=1e-4)
    for phase in ("prefill", "decode"):
        assert 0 < figures[f"kernel_tax_{phase}"] < 1
        assert figures[f"kernel_{phase}_vs_stock"] > 0


def test_fewer_rows_than_adapters_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as stopped:
        kernel.main(["--adapters", "9", "--decode-rows", "8"])
    assert stopped.value.code == 2
