"""Better and worse answers to the same prompts, on the real base: the better ones become the more probable ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.training import TrainingConfig, train
from benchmarks.real import journey_data

PAIRS = 40
WORSE = "Please look it up on our web site."


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_better_answers_win_on_the_real_base(folder: Path, tmp_path: Path) -> None:
    journey_data.main(tmp_path)
    chats = [json.loads(line)["messages"] for line in (tmp_path / "support.jsonl").read_text().splitlines()]
    rows = [{"prompt": q["content"], "chosen": a["content"], "rejected": WORSE} for q, a in chats[:PAIRS]]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = TrainingConfig(
        base=folder, preferences=pairs, out=tmp_path / "out", max_steps=8, batch_samples=4, held_out_share=0.25,
        measure=0, warmup_share=0.1,
    )  # fmt: skip
    report = train(config)
    scores = report.document["pairs"]
    print(json.dumps({"steps": report.steps, "seconds": report.document["total_s"], **scores}))
    assert scores["adapter"]["preference_loss"] < scores["base"]["preference_loss"]
    assert scores["adapter"]["margin"] > 0 and scores["adapter"]["won"] > 0.9
    assert (config.out / "adapter_model.safetensors").is_file()
