"""What the base model's files say: end tokens, generation config, and what adapters were trained with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import demo
from adapters.training.quantization.quantize import REPORT, SCALES
from server.config.settings import Settings
from server.engine.base_model import (
    QUANTIZE_REPORT,
    QUANTIZE_SCALES,
    BaseModel,
    adapter_warnings,
    read_base_model,
    write_generation_config,
)
from server.errors import SettingsError
from server.request.sampling import SamplingResolver


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(demo.MODEL_DIR, folder)
    return folder


def settings(model: Path, **more: Any) -> Settings:
    return Settings(model=str(model), data_dir=model.parent / "home", **more)


def read(model: Path, **more: Any) -> BaseModel:
    return read_base_model(settings(model, **more))


def rewrite(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text()) if file.is_file() else {}
    content |= changes
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def ids(model: Path) -> dict[str, int]:
    return {t["content"]: t["id"] for t in json.loads((model / "tokenizer.json").read_text())["added_tokens"]}


def training() -> dict[str, Any]:
    record: dict[str, Any] = json.loads((demo.ADAPTERS["acme-support"].path / "training.json").read_text())
    return record


def test_a_base_that_names_one_end_gets_those_of_its_template(model: Path) -> None:
    (model / "generation_config.json").unlink()
    rewrite(model / "tokenizer_config.json", eos_token="<|endoftext|>")
    written = write_generation_config(settings(model))
    assert written is not None
    config = json.loads((written / "generation_config.json").read_text())
    known = ids(model)
    assert set(config["eos_token_id"]) == {known[t] for t in ("<|endoftext|>", "<|im_end|>", "<|im_start|>")}


def test_the_models_own_values_stay_but_its_length_caps_nobody(model: Path) -> None:
    rewrite(model / "generation_config.json", temperature=0.7, max_new_tokens=99)
    written = write_generation_config(settings(model))
    assert written is not None
    config = json.loads((written / "generation_config.json").read_text())
    assert config["temperature"] == 0.7 and "max_new_tokens" not in config
    layer = SamplingResolver.from_settings(settings(model), read(model).generation_config).model
    assert layer.defaults["max_tokens"] == 99 and layer.defaults["temperature"] == 0.7


def test_a_generation_config_of_the_operators_is_left_alone(model: Path) -> None:
    chosen = {"engine_args": {"generation_config": "vllm"}}
    rewrite(model / "generation_config.json", temperature=0.7)
    assert write_generation_config(settings(model, **chosen)) is None
    assert read(model, **chosen).generation_config == {}


def test_overrides_show_in_the_models_layer(model: Path) -> None:
    base = read(model, engine_args={"override_generation_config": {"top_k": 3}})
    assert (
        SamplingResolver.from_settings(settings(model), base.generation_config).model.defaults["top_k"] == 3
    )


def test_an_adapter_made_for_this_base_gives_no_warning() -> None:
    base = read_base_model(Settings(demo=True))
    for adapter in demo.ADAPTERS.values():
        record = json.loads((adapter.path / "training.json").read_text())
        assert adapter_warnings(record, None, base) == []
    assert adapter_warnings(None, None, base) == []


def test_another_template_end_or_base_is_named(model: Path) -> None:
    base = read(model)
    record = training() | {"base_digest": base.rules.base_digest}
    assert adapter_warnings(record, None, base) == []
    (other_template,) = adapter_warnings(record | {"template_digest": "0" * 64}, None, base)
    assert "chat template" in other_template
    (other_end,) = adapter_warnings(record | {"end_token": "</s>", "end_token_id": 2}, None, base)
    assert "</s>" in other_end
    (other_base,) = adapter_warnings(record | {"base_digest": "0" * 64}, None, base)
    assert "base model" in other_base


def test_the_template_is_the_one_that_is_served(model: Path, tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text("{{ messages }}")
    base = read(model, chat_template=template)
    record = training() | {"base_digest": base.rules.base_digest}
    assert base.template_digest != read(model).template_digest
    assert len(adapter_warnings(record, None, base)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampling_defaults": {"temperature": 9}},
        {"limits": {"max_token": 5}},
        {"limits": {"n": 0}},
        {"presets": {"Loud": {}}},
        {"presets": {"loud": {"temprature": 1}}},
    ],
)
def test_settings_that_no_request_could_use_are_refused(model: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        SamplingResolver.from_settings(settings(model, **wrong), {})


def test_a_quantized_base_counts_as_the_model_whose_adapters_it_serves(model: Path) -> None:
    """`loragate quantize` leaves the digest of the full model."""
    full = read(model).rules.base_digest
    rewrite(model / "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    assert read(model).rules.base_digest is None, "somebody else made it: nothing is known"
    (model / QUANTIZE_REPORT).parent.mkdir()
    rewrite(model / QUANTIZE_REPORT, base_digest=full)
    assert read(model, quantization="awq").rules.base_digest == full
    assert (REPORT, SCALES) == (QUANTIZE_REPORT, QUANTIZE_SCALES)
