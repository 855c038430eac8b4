"""A complete training on a tiny base: the folder, the report, the refused settings."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import demo
from adapters.artifact.digests import base_digest, file_digest, template_digest
from adapters.training.config import PROJECTIONS, TrainingConfig
from adapters.training.errors import BaseModelError, DataError, OutputError, UnservableError
from adapters.training.export import adapter_folder
from adapters.training.model.lora import add_lora, check_servable
from adapters.training.training_run import train

Configure = Callable[..., TrainingConfig]


@pytest.mark.slow
def test_a_training_leaves_an_adapter_and_its_record(configure: Configure) -> None:
    config = configure(max_steps=12)
    report = train(config)
    assert sorted(p.name for p in config.out.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "evaluations.jsonl",
        "generations.jsonl", "grad_norm.png", "log.jsonl", "loss.png", "training.json",
    ]  # fmt: skip
    record = json.loads((config.out / "training.json").read_text())
    assert record == report.document
    assert record["base_digest"] == base_digest(config.base)
    assert record["template_digest"] == template_digest(config.base)
    assert record["data_digest"] == file_digest(config.data[0])
    assert (record["end_token"], record["seed"], record["steps"]) == ("<|im_end|>", 0, 12)
    assert record["hyperparameters"]["rank"] == 4
    assert set(record["scores"]) == {"base", "adapter"}
    assert record["scores"]["base"]["turns"] == 4
    assert record["scores"]["adapter"]["loss"] < record["scores"]["base"]["loss"]
    assert (record["general"], record["judge"], record["kept_step"]) == (None, None, 12)
    assert 0 < record["data"]["held_out_chats"] < 40

    written = json.loads((config.out / "adapter_config.json").read_text())
    assert written["target_modules"] == sorted(PROJECTIONS)
    assert written["base_model_name_or_path"] == config.base.name
    assert str(config.base.parent) not in (config.out / "adapter_config.json").read_text()

    log = [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == list(range(1, 13))
    assert log[-1]["loss"] < log[0]["loss"]


@pytest.mark.slow
def test_the_adapter_loads_in_peft_and_changes_the_base(configure: Configure) -> None:
    config = configure(measure=0)
    train(config)
    base = AutoModelForCausalLM.from_pretrained(config.base, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = base(input_ids=ids).logits
    after = PeftModel.from_pretrained(base, str(config.out))(input_ids=ids).logits
    assert (after - before).abs().max() > 1e-3


@pytest.mark.slow
def test_the_same_command_gives_the_same_weights(configure: Configure, tmp_path: Path) -> None:
    one, other = configure(out=tmp_path / "a", measure=0), configure(out=tmp_path / "b", measure=0)
    train(one)
    train(other)
    assert file_digest(one.out / "adapter_model.safetensors") == file_digest(
        other.out / "adapter_model.safetensors"
    )
    third = configure(out=tmp_path / "c", measure=0, seed=1)
    train(third)
    assert file_digest(third.out / "adapter_model.safetensors") != file_digest(
        one.out / "adapter_model.safetensors"
    )


@pytest.mark.slow
def test_a_training_never_opens_a_connection(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    train(configure(max_steps=2, measure=2, checkpoint_every=1))


def test_a_folder_that_is_no_base_is_refused(configure: Configure, tmp_path: Path) -> None:
    for base in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(
            BaseModelError, match=r"lacks config\.json and safetensors weights and a chat template"
        ):
            train(configure(base=base))


def test_nothing_left_to_train_on_is_an_error(configure: Configure) -> None:
    with pytest.raises(DataError, match="max_length_tokens 4"):
        train(configure(max_length_tokens=4))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rank": 32}, "above the server's max_lora_rank 16"),
        ({"rank": 0}, "must both be positive"),
        ({"alpha": 0}, "must both be positive"),
        ({"targets": ("q_proj", "lm_head")}, "lm_head cannot be served"),
        ({"targets": ()}, "cannot be served"),
    ],
)
def test_what_the_server_cannot_serve_is_refused_first(
    configure: Configure, changes: dict, says: str
) -> None:
    with pytest.raises(UnservableError, match=says):
        check_servable(configure(**changes))


def _drop_one(path: Path) -> dict[str, torch.Tensor]:
    return dict(list(load_file(path).items())[1:])


@pytest.mark.parametrize(
    ("matrix", "value", "read", "says"),
    [
        ("lora_B", 0.0, load_file, "All of lora_B"),
        ("lora_A", float("nan"), load_file, "contains NaN"),
        ("lora_B", 0.1, _drop_one, "the file is incomplete"),
        ("lora_B", 0.1, load_file, None),
    ],
)
def test_an_adapter_that_the_server_would_refuse_is_an_error(
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
    matrix: str,
    value: float,
    read: Callable,
    says: str,
) -> None:
    config = configure()
    model = add_lora(AutoModelForCausalLM.from_pretrained(config.base, dtype=torch.float32), config)
    for name, parameter in model.named_parameters():
        if matrix in name:
            parameter.data.fill_(value)
    monkeypatch.setattr(adapter_folder, "load_file", read)
    with pytest.raises(OutputError, match=says) if says else nullcontext():
        adapter_folder.write_adapter(model, config)


@pytest.mark.slow
def test_a_notebook_trains_the_demo_with_paths_as_text(tmp_path: Path) -> None:
    import adapters.training
    from adapters.training import TrainingConfig, TrainingError, TrainingReport, train

    config = TrainingConfig(
        base=str(demo.MODEL_DIR),  # type: ignore[arg-type]
        data=str(next(iter(demo.ADAPTERS.values())).data),  # type: ignore[arg-type]
        out=str(tmp_path / "support"),  # type: ignore[arg-type]
        max_steps=3,
        batch_samples=4,
        measure=0,
    )
    report = train(config)
    assert isinstance(report, TrainingReport) and report.steps == 3
    assert report.out == tmp_path / "support" and (report.out / "adapter_model.safetensors").is_file()
    assert report.document["data"]["chats"] > 0
    with pytest.raises(TrainingError, match="already holds a finished adapter"):
        train(config)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = adapters.training.trian
