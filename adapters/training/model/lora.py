"""Creates the LoRA adapter, and checks before the first step that the server can serve it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model

from adapters.artifact.config import read_config
from adapters.artifact.shape import BaseShape
from adapters.errors import ArtifactRefused
from adapters.training.config import PROJECTIONS, TrainingConfig
from adapters.training.errors import UnservableError

# Fields without a flag that are safe to pass to peft.
_OPTIONS = ("init_lora_weights", "layers_to_transform")
_INITS = (True, "gaussian", "orthogonal")
_OWN_FLAGS = {
    "r": "--rank",
    "lora_alpha": "--alpha",
    "lora_dropout": "--dropout",
    "use_rslora": "--rslora",
    "target_modules": "--targets",
}


def check_servable(config: TrainingConfig) -> None:
    """Check for what vLLM would refuse, or accept and serve incorrectly.

    Raises:
        UnservableError: rank, alpha, targets or an option of peft cannot be served.
    """
    if config.rank < 1 or config.alpha <= 0:
        raise UnservableError(
            f"rank {config.rank} and alpha {config.alpha} must both be positive: otherwise the adapter does not "
            "change the base."
        )
    if config.rank > config.max_lora_rank:
        raise UnservableError(
            f"rank {config.rank} is above the server's max_lora_rank {config.max_lora_rank}. Train with a "
            "lower rank, or start the server with a higher --max-lora-rank and give the same here."
        )
    unknown = sorted(set(config.targets) - set(PROJECTIONS))
    if unknown or not config.targets:
        raise UnservableError(
            f"targets {', '.join(unknown) or '(none)'} cannot be served on Qwen2. Choose from "
            f"{', '.join(PROJECTIONS)}."
        )
    _check_options(config)
    if config.start_from is not None:
        _check_start(config, config.start_from)


def lora_fields(config: TrainingConfig) -> dict[str, Any]:
    """The fields of peft's ``LoraConfig`` that ``config`` asks for."""
    return {
        "task_type": "CAUSAL_LM",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "bias": "none",
        "use_rslora": config.rslora,
        "target_modules": sorted(config.targets),
    } | config.lora_options


def add_lora(model: Any, config: TrainingConfig) -> PeftModel:
    """``model`` with an adapter, new or from ``start_from``; only the adapter's float32 weights are trainable."""
    if config.start_from is not None:
        continued: PeftModel = PeftModel.from_pretrained(model, str(config.start_from), is_trainable=True)
        return continued
    wrapped: PeftModel = get_peft_model(model, LoraConfig(**lora_fields(config)))
    return wrapped


def parameters_by_matrix(config: TrainingConfig, shape: BaseShape) -> dict[str, int]:
    """Trainable parameters of each projection, over all layers: A (rank, columns) and B (rows, rank)."""
    layers = len(config.lora_options.get("layers_to_transform") or range(shape.layers))
    sizes = {name: shape.projections[name] for name in PROJECTIONS if name in config.targets}
    return {name: layers * config.rank * (rows + columns) for name, (columns, rows) in sizes.items()}


def describe(config: TrainingConfig, shape: BaseShape) -> list[str]:
    """Lines that describe what is trained, and advice if the scaling is unusual."""
    counts = parameters_by_matrix(config, shape)
    rule = "alpha / sqrt(rank)" if config.rslora else "alpha / rank"
    lines = [
        f"LoRA rank {config.rank}, alpha {config.alpha}: the update is scaled by {rule} = {config.scaling:g}",
        f"{sum(counts.values()):,} trainable parameters: "
        + ", ".join(f"{name} {count:,}" for name, count in counts.items()),
    ]
    if config.scaling < 1:
        lines.append(
            f"alpha / rank is below 1: the update is damped to {config.scaling:g} of its size and learns "
            f"slowly. Give --alpha {config.rank} or more, or --rslora, or a higher --learning-rate."
        )
    return lines


def _check_options(config: TrainingConfig) -> None:
    for name in config.lora_options:
        if name in _OWN_FLAGS:
            raise UnservableError(f"lora_options: {name} has its own flag. Give {_OWN_FLAGS[name]}.")
    try:
        # The same rules that the server applies to the finished adapter.
        read_config(lora_fields(config), config.max_lora_rank)
    except ArtifactRefused as error:
        raise UnservableError(f"lora_options: {error}") from error
    for name, value in config.lora_options.items():
        if name not in _OPTIONS and value not in (None, False, "none"):
            raise UnservableError(
                f"lora_options: {name} is not passed to peft. Only {' and '.join(_OPTIONS)} are."
            )
    if config.lora_options.get("init_lora_weights", True) not in _INITS:
        raise UnservableError("lora_options: init_lora_weights must be true, gaussian or orthogonal.")


def _check_start(config: TrainingConfig, folder: Path) -> None:
    """Check that the adapter to continue has the shape that ``config`` asks for."""
    path = folder / "adapter_config.json"
    if not path.is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise UnservableError(
            f"start_from: {folder.name} is not an adapter in safetensors format. Give a folder with "
            "adapter_config.json and adapter_model.safetensors."
        )
    written: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    try:
        found = read_config(written, config.max_lora_rank)
    except ArtifactRefused as error:
        raise UnservableError(f"start_from: {error}") from error
    has = {
        "rank": found.rank,
        "alpha": found.alpha,
        "rslora": found.rslora,
        "targets": sorted(found.target_modules),
    }
    wants = {"rank": config.rank, "alpha": config.alpha, "rslora": config.rslora}
    for name, value in (wants | {"targets": sorted(config.targets)}).items():
        if has[name] != value:
            raise UnservableError(
                f"start_from: {folder.name} has {name} {has[name]}, this training {value}. An adapter keeps its "
                f"shape. Give --{name} the value of the adapter."
            )
