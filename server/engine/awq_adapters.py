"""Adapters of the full model on a base that `loragate quantize` made.

AWQ scales channels: a projection of that base reads x/s where the full model's reads x, and v_proj and up_proj write
y/t where those write y. With A·diag(s) and diag(1/t)·B in the places of A and B an adapter does to the quantized base
exactly what it does to the full one. Every other adapter is loaded from the store as it is.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from server.engine.base_model import QUANTIZE_SCALES

_PREFIX = "base_model.model."
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class ScaledAdapters:
    """Writes adapters anew for a base with scales; each lies in its folder while it is loaded."""

    def __init__(self, scales: Mapping[str, torch.Tensor], folder: Path) -> None:
        self._scales = scales
        self._folder = folder
        shutil.rmtree(folder, ignore_errors=True)  # of an engine that is gone
        folder.mkdir(parents=True)

    @classmethod
    def of(cls, model: Path, folder: Path) -> ScaledAdapters | None:
        """For the base in `model`; None where adapters fit as they are."""
        file = model / QUANTIZE_SCALES
        return cls(load_file(file), folder) if file.is_file() else None

    def write(self, engine_id: int, source: Path) -> Path:
        """The adapter in `source`, scaled; returns its folder, the same for the same id."""
        target = self._folder / str(engine_id)
        if target.is_dir():
            return target
        scratch = Path(tempfile.mkdtemp(dir=self._folder))
        tensors = load_file(source / _WEIGHTS)
        save_file({name: self._scaled(name, tensor) for name, tensor in tensors.items()}, scratch / _WEIGHTS)
        shutil.copyfile(source / _CONFIG, scratch / _CONFIG)
        scratch.rename(target)
        return target

    def remove(self, engine_id: int) -> None:
        """Forget an adapter that was unloaded."""
        shutil.rmtree(self._folder / str(engine_id), ignore_errors=True)

    def _scaled(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """NOTE: in float32, because rounding once more would cost a 16-bit adapter accuracy."""
        stem, _, kind = name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        if kind == "lora_A" and (inputs := self._scales.get(f"{stem}.inputs")) is not None:
            return tensor.float() * inputs
        if kind == "lora_B" and (outputs := self._scales.get(f"{stem}.outputs")) is not None:
            return tensor.float() * outputs[:, None]
        return tensor.float()
