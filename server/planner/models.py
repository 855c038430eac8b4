"""Finds a model's config: in a local folder, in the built-in data, or on the hub."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from server.planner.errors import ModelUnknown
from server.planner.shape import ModelShape


def find_shape(model: str) -> ModelShape:
    """The shape of a local model, of a known Qwen model (offline), or of any other hub id (fetches config.json).

    Raises:
        ModelUnknown: the config cannot be found.
        ModelUnplanned: the model is not a dense decoder.
    """
    return ModelShape.from_config(find_config(model))


def find_config(model: str) -> dict[str, Any]:
    """The config of `model`. Raises: ModelUnknown."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _read(folder / "config.json", model)
    known = known_models()
    if model in known:
        return known[model]
    return _fetch(model)


@cache
def known_models() -> dict[str, dict[str, Any]]:
    """Hub id → config, of the Qwen2.5 and Qwen3 dense families."""
    configs: dict[str, dict[str, Any]] = {}
    for file in files("server.planner.shapes").iterdir():
        if file.name.endswith(".json"):
            family = json.loads(file.read_text(encoding="utf-8"))
            configs |= {name: family["config"] | own for name, own in family["models"].items()}
    return configs


def _fetch(model: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = hf_hub_download(model, "config.json")
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelUnknown(
            f"{model} is neither a folder nor one of the {len(known_models())} Qwen models known offline, and its "
            "config.json cannot be fetched from the hub. Check the name and the network."
        ) from error
    return _read(Path(path), model)


def _read(path: Path, model: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnknown(f"{model} has no readable config.json.") from error
    if not isinstance(config, dict):
        raise ModelUnknown(f"The config.json of {model} is not an object.")
    return config
