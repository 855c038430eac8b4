"""The configuration of a training: impossible values, secrets, and a fingerprint that old checkpoints have."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from adapters.training.config import FIELDS, TrainingConfig


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    data = tmp_path / "data.jsonl"
    data.write_text("{}\n")
    return TrainingConfig(base=Path("base"), data=data, out=tmp_path / "out")


def test_every_setting_is_documented() -> None:
    for name, field in FIELDS.items():
        assert field.description and field.description.endswith("."), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_samples": 8, "micro_batch_samples": 3}, "8 is not a multiple of micro_batch_samples 3"),
        ({"micro_batch_samples": 0}, "micro_batch_samples"),
        ({"held_out_share": 1.0}, "held_out_share"),
        ({"replay_ratio": -0.1}, "replay_ratio"),
        ({"dropout": 1.0}, "dropout"),
        ({"then_rate": 0.0}, "then_rate"),
        ({"judge": "http://127.0.0.1:9/v1"}, "judge and judge_model belong together"),
        ({"dtype": "float16"}, "'auto', 'float32' or 'bfloat16'"),
        ({"keep": "worst"}, "'best' or 'last'"),
    ],
)
def test_impossible_settings_are_refused(
    config: TrainingConfig, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(config, **changes)  # type: ignore[arg-type]


def test_it_is_frozen(config: TrainingConfig) -> None:
    with pytest.raises(FrozenInstanceError):
        config.rank = 1  # type: ignore[misc]


def test_no_message_shows_the_key_of_the_judge(config: TrainingConfig) -> None:
    with_key = replace(config, judge="http://127.0.0.1:9/v1", judge_model="m", judge_key="secret")
    assert "secret" not in repr(with_key)
    with pytest.raises(ValueError, match="belong together") as caught:
        replace(with_key, judge="")
    assert "secret" not in str(caught.value)


def test_checkpoints_of_the_first_release_have_the_same_fingerprint(config: TrainingConfig) -> None:
    """A field that is renamed, or a default that changes, would make every old checkpoint useless."""
    changed = replace(
        config, rank=4, targets=("v_proj", "q_proj"), template_kwargs={"enable_thinking": False}
    )
    expected = "c3fab5648db36c3aeb4afe8ae231188ffda3e5bfaf1d00343c979ea761f11a32"
    assert changed.fingerprint("base") == expected
    no_effect = replace(changed, checkpoint_every=5, wandb="project", over_memory=True, out=Path("elsewhere"))
    assert no_effect.fingerprint("base") == expected
    assert replace(changed, seed=1).fingerprint("base") != expected
