"""Converts adapters of the full model for a base model that `loragate quantize` made. Leans on nothing of vLLM.

AWQ scales channels: a projection of the quantized base reads x/s where the full model's reads x, and v_proj and
up_proj write y/t where the full model's write y. With A·diag(s) and diag(1/t)·B instead of A and B, an adapter has
exactly the same effect on the quantized base as on the full one. On any other base, adapters are loaded unchanged.
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


class AwqAdapters:
    """Writes scaled copies of adapters; each copy stays in its folder while the adapter is loaded."""

    def __init__(self, scales: Mapping[str, torch.Tensor], folder: Path) -> None:
        self._scales = scales
        self._folder = folder
        shutil.rmtree(folder, ignore_errors=True)  # copies of an earlier engine
        folder.mkdir(parents=True)

    @classmethod
    def of(cls, model: Path, folder: Path) -> AwqAdapters | None:
        """For the base model in `model`; None when its adapters need no scaling."""
        file = model / QUANTIZE_SCALES
        return cls(load_file(file), folder) if file.is_file() else None

    def write(self, engine_id: int, source: Path) -> Path:
        """Write the adapter in `source` scaled; returns its folder, which is the same for the same id."""
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
        """Delete the copy of an adapter that was unloaded."""
        shutil.rmtree(self._folder / str(engine_id), ignore_errors=True)

    def _scaled(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """NOTE: in float32, because a second rounding would make a 16-bit adapter less accurate."""
        stem, _, kind = name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        if kind == "lora_A" and (inputs := self._scales.get(f"{stem}.inputs")) is not None:
            return tensor.float() * inputs
        if kind == "lora_B" and (outputs := self._scales.get(f"{stem}.outputs")) is not None:
            return tensor.float() * outputs[:, None]
        return tensor.float()
