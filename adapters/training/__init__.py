"""The companion trainer: from files of chats to a PEFT adapter that the server loads unchanged.

    from adapters.training import TrainingConfig, train

    report = train(TrainingConfig(base="Qwen2.5-7B-Instruct", data="chats.jsonl", out="out/support"))

``training_run.train`` calls the folders in this order: ``data`` (chats to token ids and labels) -> ``model`` (base,
LoRA, memory) -> ``loop`` (transformers' Trainer) -> ``evaluation`` and ``monitoring`` -> ``export`` (the adapter
folder).
``check`` validates data files without training; ``quantization`` makes a 4-bit base.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapters.training.config import TrainingConfig
    from adapters.training.errors import TrainingError
    from adapters.training.export.report import TrainingReport
    from adapters.training.training_run import train

__all__ = ["TrainingConfig", "TrainingError", "TrainingReport", "train"]

# Imported on first use: `loragate train --help` and `--check` do without torch.
_MODULES = {
    "TrainingConfig": "adapters.training.config",
    "TrainingError": "adapters.training.errors",
    "TrainingReport": "adapters.training.export.report",
    "train": "adapters.training.training_run",
}

# peft imports bitsandbytes, which warns when an optional package of kernels is missing.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
