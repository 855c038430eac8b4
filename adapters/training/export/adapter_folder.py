"""The output folder: PEFT's two files, which the server loads unchanged, and ``training.json`` beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load_file, save_file

from adapters.artifact import CONFIG, WEIGHTS, BaseShape, inspect_artifact
from adapters.errors import ArtifactRefused
from adapters.training.config import TrainingConfig
from adapters.training.errors import OutputError
from adapters.training.export.model_card import model_card

REPORT_NAME = "training.json"
CARD_NAME = "README.md"


def check_out(config: TrainingConfig) -> None:
    """Check that the folder can be written to.

    Raises:
        OutputError: it already has a finished training, or ``out`` is a file.
    """
    if config.out.exists() and not config.out.is_dir():
        raise OutputError(f"{config.out.name} is a file. Give a folder to write the adapter into.")
    if (config.out / REPORT_NAME).is_file():
        raise OutputError(f"{config.out.name} already holds a finished adapter. Give another folder.")


def write_adapter(model: Any, config: TrainingConfig) -> None:
    """Write the adapter of the PEFT model ``model`` into ``config.out`` and check it by the server's own rules.

    vLLM accepts most violations silently and serves the base without the adapter, or garbage.

    Raises:
        OutputError: the server would refuse the adapter.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(config.out), save_embedding_layers=False)
    _tidy_config(config)
    weights = config.out / WEIGHTS
    # Sorted and without peft's metadata, so that equal weights are equal bytes.
    save_file(dict(sorted(load_file(weights).items())), weights, metadata={"format": "pt"})
    # NOTE: safetensors writes 0600; the server may run as another user.
    weights.chmod(0o644)
    try:
        shape = BaseShape.from_config(config.base / "config.json")
        inspect_artifact(config.out, base=shape, max_lora_rank=config.max_lora_rank)
    except ArtifactRefused as error:
        raise OutputError(
            f"The server would refuse the trained adapter: {error} If the weights are zero, raise the learning rate "
            "or the number of steps; if they are not finite, lower the learning rate."
        ) from error


def write_report(config: TrainingConfig, report: Mapping[str, Any]) -> None:
    """Write the model card, and then ``training.json``, which marks the folder as finished."""
    card = model_card(report, name=config.out.name, base=config.base.resolve().name)
    (config.out / CARD_NAME).write_text(card, encoding="utf-8")
    partial = config.out / f"{REPORT_NAME}.part"
    partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    partial.replace(config.out / REPORT_NAME)


def _tidy_config(config: TrainingConfig) -> None:
    """Sort what peft writes in set order, and write the base's name instead of a path of this machine."""
    path = config.out / CONFIG
    written = json.loads(path.read_text(encoding="utf-8"))
    written["target_modules"] = sorted(written["target_modules"])
    written["base_model_name_or_path"] = config.base.resolve().name
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
