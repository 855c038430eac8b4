"""The output folder: PEFT's two files, which the server loads unchanged, and ``training.json`` beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from adapters.training.config import TrainingConfig
from adapters.training.errors import OutputError
from adapters.training.export.model_card import model_card

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
REPORT_NAME = "training.json"
CARD_NAME = "README.md"

_A, _B = ".lora_A.weight", ".lora_B.weight"


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
    """Write the adapter of the PEFT model ``model`` into ``config.out`` and check the written tensors.

    Raises:
        OutputError: the server could not serve these tensors.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(config.out), save_embedding_layers=False)
    _tidy_config(config)
    tensors = load_file(str(config.out / WEIGHTS_NAME))
    check_tensors(tensors, projection_shapes(model), config.rank)
    # Sorted and without peft's metadata, so that equal weights are equal bytes.
    save_file(dict(sorted(tensors.items())), str(config.out / WEIGHTS_NAME), metadata={"format": "pt"})
    # NOTE: safetensors writes 0600; the server may run as another user.
    (config.out / WEIGHTS_NAME).chmod(0o644)


def write_report(config: TrainingConfig, report: Mapping[str, Any]) -> None:
    """Write the model card, and then ``training.json``, which marks the folder as finished."""
    card = model_card(report, name=config.out.name, base=config.base.resolve().name)
    (config.out / CARD_NAME).write_text(card, encoding="utf-8")
    partial = config.out / f"{REPORT_NAME}.part"
    partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    partial.replace(config.out / REPORT_NAME)


def projection_shapes(model: Any) -> dict[str, tuple[int, int]]:
    """(out, in) of every projection of the base that has an adapter, by its name in a PEFT file."""
    return {
        name: (int(module.out_features), int(module.in_features))
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "base_layer")
    }


def check_tensors(
    tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, int]], rank: int
) -> None:
    """Check that ``tensors`` are one A and one B of the right shape for every projection in ``shapes``.

    vLLM accepts most violations silently and serves the base without the adapter, or garbage.

    Raises:
        OutputError: a tensor is missing, surplus, of the wrong shape or not finite, or every B is zero.
    """
    expected = {f"{name}{_A}": (rank, columns) for name, (_, columns) in shapes.items()}
    expected |= {f"{name}{_B}": (rows, rank) for name, (rows, _) in shapes.items()}
    if not expected or set(tensors) != set(expected):
        differing = sorted(set(tensors) ^ set(expected))
        raise OutputError(
            f"{len(differing)} of the adapter's tensors are missing or surplus, the first: {differing[:1]}."
        )
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name]:
            raise OutputError(f"{name} has the shape {tuple(tensor.shape)}; the base needs {expected[name]}.")
        if not bool(torch.isfinite(tensor).all()):
            raise OutputError(f"{name} has values that are not finite. Lower the learning rate.")
    if not any(bool(t.any()) for n, t in tensors.items() if n.endswith(_B)):
        raise OutputError(
            "Every B matrix is zero: the adapter learned nothing and would not change the base. Raise the learning "
            "rate or the number of steps."
        )


def _tidy_config(config: TrainingConfig) -> None:
    """Sort what peft writes in set order, and write the base's name instead of a path of this machine."""
    path = config.out / CONFIG_NAME
    written = json.loads(path.read_text(encoding="utf-8"))
    written["target_modules"] = sorted(written["target_modules"])
    written["base_model_name_or_path"] = config.base.resolve().name
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
