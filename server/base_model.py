"""What is known of the base model before the engine has loaded it: its shape and its digest."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from adapters.artifact import BaseShape
from adapters.digests import base_digest
from adapters.lifecycle import Rules
from server.errors import SettingsError
from server.settings import Settings


async def adapter_rules(settings: Settings) -> Rules:
    """What adapters must fit to be served on this base.

    Raises:
        SettingsError: the model is not there.
    """
    return await asyncio.to_thread(_rules, settings)


def _rules(settings: Settings) -> Rules:
    folder = _folder(settings.base_model)
    return Rules(
        base=BaseShape.from_config(folder / "config.json"),
        max_lora_rank=settings.max_lora_rank,
        base_digest=_digest(folder, settings),
    )


def _folder(model: str) -> Path:
    """The model's folder; of a hub model only the JSON files are fetched, vLLM loads the weights."""
    if Path(model).expanduser().is_dir():
        return Path(model).expanduser()
    try:
        return Path(snapshot_download(model, allow_patterns=["*.json"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise SettingsError(
            f"--model {model} is neither a folder nor a model that the hub has or that was fetched before"
        ) from error


def _digest(folder: Path, settings: Settings) -> str | None:
    """The base's digest, remembered in the data folder while its files stay as they are.

    None where it says nothing: a quantized base serves the adapters of the full one, and of a hub model the
    weights are not here yet.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = sorted(folder.glob("*.safetensors"))
    if settings.quantization or "quantization_config" in config or not weights:
        return None
    state = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in [folder / "config.json", *weights]]
    memory = settings.home / "base-digest.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["files"] == state:
            return str(known["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never made, or half written: it is made anew
    digest = base_digest(folder)
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(json.dumps({"files": state, "digest": digest}), encoding="utf-8")
    return digest
