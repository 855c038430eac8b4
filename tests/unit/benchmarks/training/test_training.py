"""The benchmark of the trainer: its ratios, and that both trainers get the same data."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from adapters.training.data.reader import read_conversations
from benchmarks.__main__ import main
from benchmarks.training import benchmark as training
from benchmarks.training import train_once
from benchmarks.training.speed import figures_of, run_training, write_base, write_data
from benchmarks.training.train_once import OURS, TRL, TRL_PACKED
from demo.chats import write_chats
from demo.world.mixture import held_out_samples

TINY = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1,
    "vocab_size": 3500,
}  # fmt: skip


def run(seconds: float, peak: int, losses: list[float] | None = None) -> dict[str, Any]:
    return {
        "trained_tokens": 100, "seconds": seconds, "peak_bytes": peak, "dtype": "float32",
        "losses": losses or [3.0] * 20,
    }  # fmt: skip


def test_ratios_compare_with_the_faster_setting_of_trl_in_each_round() -> None:
    found = figures_of(
        {
            OURS: [run(10.0, 80), run(10.0, 80)],
            TRL: [run(20.0, 200), run(12.0, 200)],
            TRL_PACKED: [run(11.0, 100), run(16.0, 100)],
        }
    )
    assert found["tokens_per_s_vs_trl"] == pytest.approx((1.1 + 1.2) / 2)
    assert found["peak_memory_vs_trl"] == pytest.approx((0.8 + 0.4) / 2)


def test_losses_are_compared_at_every_tenth_step_without_packing() -> None:
    ours, theirs = [3.0] * 20, [3.0] * 20
    ours[9], ours[11] = 3.03, 9.0
    found = figures_of(
        {OURS: [run(1, 1, ours)], TRL: [run(1, 1, theirs)], TRL_PACKED: [run(1, 1, [1.0] * 5)]}
    )
    assert (found["loss_difference_vs_trl"], found["losses_compared"]) == (pytest.approx(0.01), 2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        true_load = training.shapes.load
        patch.setattr(training.shapes, "load", lambda name: true_load(name) | TINY)
        return write_base("qwen2.5-0.5b", 2, tmp_path_factory.mktemp("bench") / "base")


def test_the_random_base_has_all_weights(base: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(base, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.config.num_hidden_layers == 2


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason="requirements/bench-trl.txt is not installed"
)
def test_ours_and_trl_take_the_same_steps(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours in this process, which has imported what it needs; TRL's in one of its own, as in the benchmark."""
    data = write_data(tmp_path / "data.jsonl", 8)
    flags = {
        "base": str(base),
        "data": str(data),
        "batch_samples": 4,
        "dtype": "float32",
        "rank": 4,
        "alpha": 8,
    }
    assert train_once.main([OURS, json.dumps(flags | {"out": str(tmp_path / "ours")})]) == 0
    ours = json.loads(capsys.readouterr().out.splitlines()[-1])
    theirs = run_training(TRL, flags | {"out": str(tmp_path / "trl")})
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-4)
    assert len(ours["losses"]) == 2 and ours["trained_tokens"] == theirs["trained_tokens"] > 0


def test_general_chats_are_read_by_the_trainer(tmp_path: Path) -> None:
    samples = held_out_samples(7, 20)
    chats = read_conversations(write_chats(tmp_path / "general.jsonl", samples))
    assert [list(c.messages) for c in chats] == [list(s.messages) for s in samples]


def test_unknown_parts_and_a_missing_trl_are_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["training", "--parts", "speed,luck"]) == 2
    assert "no part luck" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["training", "--parts", "speed"]) == 2
    assert "requirements/bench-trl.txt" in capsys.readouterr().err


def test_the_last_line_is_json_and_a_missed_bound_sets_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures: dict[str, float] = {"served_equals_peft": 49.0}
    monkeypatch.setattr(training, "_measure", lambda *_: (figures, {}))
    assert training.main(["--parts", "parity", "--quiet"]) == 1
    figures["served_equals_peft"] = 50.0
    assert training.main(["--parts", "parity", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["served_equals_peft"] == 50.0
