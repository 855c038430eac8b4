"""Reads the base model's properties from the JSON files in its folder, before the engine loads it.

Leans on nothing of vLLM but its rules for generation_config.json (`ModelConfig.get_diff_sampling_param`).
"""

from __future__ import annotations

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
from adapters.artifact.provenance import added_tokens, provenance_warnings
from adapters.lifecycle import Rules
from adapters.names import base_model_name
from sampling.end_tokens import end_tokens
from sampling.errors import NoEndToken
from server.config.settings import Settings
from server.errors import SettingsError

logger = logging.getLogger("loragate")

#: The files from which shape, end tokens and chat template are read.
_SMALL_FILES = ["*.json", "*.jinja", "loragate/*"]
#: Files that `loragate quantize` writes into a checkpoint's folder (`adapters.training.quantization.quantize`).
QUANTIZE_REPORT = "loragate/quantize.json"
QUANTIZE_SCALES = "loragate/scales.safetensors"


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The properties of the served base model on which adapters and answers depend."""

    rules: Rules
    name: str
    """The last part of the model's path or of its name on the hub."""
    template_digest: str | None
    """SHA-256 of the served chat template; None without one."""
    end_tokens: tuple[str | int, ...]
    """Tokens that end an answer, as ids; as text when no file gives the id. Empty: no token does."""
    generation_config: Mapping[str, Any]
    """generation_config.json as the engine reads it; empty when the operator disabled it."""


def read_base_model(settings: Settings) -> BaseModel:
    """Read the base model's files; the first time this hashes its weights, for seconds.

    Raises:
        SettingsError: the model cannot be found.
    """
    folder = model_folder(settings.base_model)
    return BaseModel(
        rules=Rules(
            base=BaseShape.from_config(folder / "config.json"),
            max_lora_rank=settings.max_lora_rank,
            max_bytes=settings.max_adapter_bytes,
            base_digest=_digest(folder, settings),
            base_tokens=frozenset(added_tokens(folder)) or None,
            base_folder=folder,
        ),
        name=base_model_name(settings.base_model),
        template_digest=_template_digest(settings, folder),
        end_tokens=_end_tokens(settings, folder),
        generation_config=_effective_generation_config(settings, folder),
    )


def adapter_warnings(
    training: Mapping[str, Any] | None, brought: Mapping[str, Any] | None, base: BaseModel
) -> list[str]:
    """Differences between an adapter and the served base model, and what of it is not used, one sentence each.

    Args:
        training: the adapter's training.json; None when it has none.
        brought: the facts about its other files (`adapters.artifact.provenance.read_provenance`).
        base: the served base model.
    """
    told = dict(brought or {})
    if training is not None:  # it is more exact than what the files let us guess
        known = {"template_digest", "base_digest", "end_token"} & training.keys()
        for fact in {"base_model" if name == "base_digest" else name for name in known}:
            told.pop(fact, None)
    return _training_warnings(training, base) + provenance_warnings(
        told, base_name=base.name, template=base.template_digest, end_tokens=base.end_tokens
    )


def _training_warnings(training: Mapping[str, Any] | None, base: BaseModel) -> list[str]:
    if training is None:
        return []
    warnings = []
    trained = training.get("template_digest")
    if trained is not None and trained != base.template_digest:
        warnings.append(
            "It was trained with another chat template than the served one, so prompts are rendered differently than "
            "in training. Serve the template it was trained with (--chat-template), or train it again."
        )
    ends = {training.get("end_token_id"), training.get("end_token")} - {None}
    if ends and not ends & set(base.end_tokens):
        trained_end = training.get("end_token") or training.get("end_token_id")
        warnings.append(
            f"It was trained to end its answers with {trained_end}, which is not an end token of the served base "
            "model, so its answers do not end. Train it again with an end token of this base model."
        )
    digest = training.get("base_digest")
    if digest is not None and base.rules.base_digest is not None and digest != base.rules.base_digest:
        warnings.append(
            "It was trained on another base model than the served one. Train it again on this base model."
        )
    return warnings


def write_generation_config(settings: Settings) -> Path | None:
    """Write a generation_config.json with all tokens that end an answer; returns its folder.

    NOTE: vLLM reads `eos_token_id` only from a generation config. A `max_new_tokens` in that file would cap every
    request (`override_max_tokens` of its handlers), so it is removed; it is a default of the model's layer instead.

    None when `--engine-args` sets its own generation config, or when no end token is known.
    """
    if "generation_config" in settings.engine_args:
        return None
    model = model_folder(settings.base_model)
    ends = [token for token in _end_tokens(settings, model) if isinstance(token, int)]
    if not ends:
        return None
    config = read_json(model / "generation_config.json") | {"eos_token_id": ends}
    config.pop("max_new_tokens", None)
    folder = settings.home / "generation"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "generation_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def _effective_generation_config(settings: Settings, folder: Path) -> dict[str, Any]:
    """The source of vLLM's defaults: `--engine-args` can disable it, replace it, or override values."""
    source = settings.engine_args.get("generation_config", "auto")
    overrides: dict[str, Any] = settings.engine_args.get("override_generation_config") or {}
    if source == "vllm":
        return dict(overrides)
    place = folder if source == "auto" else Path(source)
    return read_json(place / "generation_config.json") | overrides


def _end_tokens(settings: Settings, folder: Path) -> tuple[str | int, ...]:
    tokenizer = read_json(folder / "tokenizer.json")
    try:
        return end_tokens(
            read_json(folder / "tokenizer_config.json"),
            read_json(folder / "generation_config.json"),
            _template(settings, folder),
            tokenizer,
        )
    except NoEndToken as error:
        logger.warning("%s", error)
        return ()


def _template(settings: Settings, folder: Path) -> str | None:
    """The served chat template: the operator's, or the one that transformers would find."""
    file = settings.chat_template or folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    text = read_json(folder / "tokenizer_config.json").get("chat_template")
    return text if isinstance(text, str) else None


def operators_template(settings: Settings) -> str | None:
    """The chat template that the operator serves in place of the base model's own; None: its own is served."""
    return settings.chat_template.read_text(encoding="utf-8") if settings.chat_template else None


def _template_digest(settings: Settings, folder: Path) -> str | None:
    if settings.chat_template is None:
        return template_digest(folder)
    text = _template(settings, folder)
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of the base model; empty when the file does not exist. Raises: SettingsError."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except ValueError as error:
        raise SettingsError(f"The {file.name} of the base model is not JSON: {error}.") from error
    return content


def model_folder(model: str) -> Path:
    """The model's folder. For a hub model only the small files are downloaded; vLLM downloads the weights.

    Raises:
        SettingsError: the model cannot be found.
    """
    if Path(model).expanduser().is_dir():
        return Path(model).expanduser()
    try:
        return Path(snapshot_download(model, allow_patterns=_SMALL_FILES))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise SettingsError(
            f"--model {model} is neither a folder nor a model on the hub or in its local cache. Check the name."
        ) from error


def _digest(folder: Path, settings: Settings) -> str | None:
    """The base model's digest, cached in the data folder until its files change.

    A base model that `loragate quantize` made serves the adapters of the full model, so it has the full model's
    digest. None when it is unknown: for a model that another tool quantized, and for a hub model that is not
    downloaded yet.
    """
    made = read_json(folder / QUANTIZE_REPORT).get("base_digest")
    if made is not None:
        return str(made)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = sorted(folder.glob("*.safetensors"))
    if settings.quantization or "quantization_config" in config or not weights:
        return None
    state = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in [folder / "config.json", *weights]]
    cache = settings.home / "base-digest.json"
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
        if known["files"] == state:
            return str(known["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing or partly written: compute it again
    digest = base_digest(folder)
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps({"files": state, "digest": digest}), encoding="utf-8")
    return digest
