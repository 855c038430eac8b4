"""What is known of the base model before the engine has loaded it: from the JSON files in its folder."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from adapters.artifact import BaseShape
from adapters.artifact.digests import base_digest, template_digest
from adapters.lifecycle import Rules
from sampling.errors import NoEndToken
from sampling.stop import end_tokens
from server.config.settings import Settings
from server.errors import SettingsError

logger = logging.getLogger("loragate")

#: Beside config.json: what the shape, the end tokens and the chat template are read from.
_SMALL_FILES = ["*.json", "*.jinja", "loragate/*"]
#: What `loragate quantize` leaves in a checkpoint's folder (`adapters.training.quantization.quantize`).
QUANTIZE_REPORT = "loragate/quantize.json"
QUANTIZE_SCALES = "loragate/scales.safetensors"


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The served base, as far as adapters and answers depend on it."""

    rules: Rules
    template_digest: str | None
    """SHA-256 of the chat template that is served; None without one."""
    end_tokens: tuple[str | int, ...]
    """What ends an answer, as ids; as text where no file tells the id. Empty: nothing does."""
    generation_config: Mapping[str, Any]
    """generation_config.json as the engine gets it; empty when the operator wants none."""


async def read_base_model(settings: Settings) -> BaseModel:
    """What the base model's files say.

    Raises:
        SettingsError: the model is not there.
    """
    return await asyncio.to_thread(_read, settings)


def _read(settings: Settings) -> BaseModel:
    folder = model_folder(settings.base_model)
    return BaseModel(
        rules=_rules(settings, folder),
        template_digest=_template_digest(settings, folder),
        end_tokens=_end_tokens(settings, folder),
        generation_config=_effective_generation_config(settings, folder),
    )


def training_warnings(training: Mapping[str, Any] | None, base: BaseModel) -> list[str]:
    """What an adapter was trained with that the served base does otherwise, one sentence each.

    Args:
        training: the adapter's training.json; None where it came without one.
        base: the served base.
    """
    if training is None:
        return []
    warnings = []
    trained = training.get("template_digest")
    if trained is not None and trained != base.template_digest:
        warnings.append(
            "It was trained with another chat template than the one served: prompts are rendered otherwise than "
            "in training. Serve the template it was trained with (--chat-template), or train it again."
        )
    ends = {training.get("end_token_id"), training.get("end_token")} - {None}
    if ends and not ends & set(base.end_tokens):
        told = training.get("end_token") or training.get("end_token_id")
        warnings.append(
            f"It was trained to end its answers with {told}, which ends no answer of the served base: its answers "
            "will run on. Train it again with an end token of this base."
        )
    digest = training.get("base_digest")
    if digest is not None and base.rules.base_digest is not None and digest != base.rules.base_digest:
        warnings.append(
            "It was trained on another base model than the one served; train it again on this one."
        )
    return warnings


def write_generation_config(settings: Settings) -> Path | None:
    """Write a generation_config.json with all the tokens that end an answer; returns its folder.

    NOTE: vLLM takes `eos_token_id` from a generation config only, and its `max_new_tokens`, read from a folder,
    would cap every request (`override_max_tokens` of its handlers): here it is a default of the model's layer.

    None when `--engine-args` names a generation config of its own, or nothing is known to end an answer.
    """
    if "generation_config" in settings.engine_args:
        return None
    model = model_folder(settings.base_model)
    ends = [token for token in _end_tokens(settings, model) if isinstance(token, int)]
    if not ends:
        return None
    config = _json(model / "generation_config.json") | {"eos_token_id": ends}
    config.pop("max_new_tokens", None)
    folder = settings.home / "generation"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "generation_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def _effective_generation_config(settings: Settings, folder: Path) -> dict[str, Any]:
    """What vLLM takes defaults from: `--engine-args` may say none, another one, or override values."""
    source = settings.engine_args.get("generation_config", "auto")
    overrides: dict[str, Any] = settings.engine_args.get("override_generation_config") or {}
    if source == "vllm":
        return dict(overrides)
    place = folder if source == "auto" else Path(source)
    return _json(place / "generation_config.json") | overrides


def _end_tokens(settings: Settings, folder: Path) -> tuple[str | int, ...]:
    tokenizer = _json(folder / "tokenizer.json")
    try:
        return end_tokens(
            _json(folder / "tokenizer_config.json"),
            _json(folder / "generation_config.json"),
            _template(settings, folder),
            tokenizer,
        )
    except NoEndToken as error:
        logger.warning("%s", error)
        return ()


def _template(settings: Settings, folder: Path) -> str | None:
    """The chat template that is served, as transformers finds it, or the operator's."""
    file = settings.chat_template or folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    text = _json(folder / "tokenizer_config.json").get("chat_template")
    return text if isinstance(text, str) else None


def _template_digest(settings: Settings, folder: Path) -> str | None:
    if settings.chat_template is None:
        return template_digest(folder)
    text = _template(settings, folder)
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def _json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except ValueError as error:
        raise SettingsError(f"{file.name} of the base model is not JSON: {error}") from error
    return content


def _rules(settings: Settings, folder: Path) -> Rules:
    return Rules(
        base=BaseShape.from_config(folder / "config.json"),
        max_lora_rank=settings.max_lora_rank,
        max_bytes=settings.max_adapter_bytes,
        base_digest=_digest(folder, settings),
    )


def model_folder(model: str) -> Path:
    """The model's folder; of a hub model only the small files are fetched, vLLM loads the weights.

    Raises:
        SettingsError: the model is not there.
    """
    if Path(model).expanduser().is_dir():
        return Path(model).expanduser()
    try:
        return Path(snapshot_download(model, allow_patterns=_SMALL_FILES))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise SettingsError(
            f"--model {model} is neither a folder nor a model that the hub has or that was fetched before"
        ) from error


def _digest(folder: Path, settings: Settings) -> str | None:
    """The base's digest, remembered in the data folder while its files stay as they are.

    One that `loragate quantize` made serves the adapters of the full model, so it counts as that. None where
    nothing is known: of a base that others quantized, and of a hub model, whose weights are not here yet.
    """
    made = _json(folder / QUANTIZE_REPORT).get("base_digest")
    if made is not None:
        return str(made)
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
