"""Merges base and adapter into one model, for a server that serves only this adapter.

The sum is computed in float32 and rounded once, to the requested dtype. A 4-bit base is refused, because rounding to
4 bits loses a large part of the adapter (peft#2321); merge into the 16-bit base instead.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from adapters.artifact import BaseShape, inspect_artifact
from adapters.artifact.digests import base_digest
from adapters.errors import ArtifactRefused
from adapters.training.errors import MergeError

_HIGHEST_RANK = 512  # vLLM's own limit; the merged model has no rank
_COPIED = (
    "*.jinja",
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)


def merge(base: Path, adapter: Path, out: Path, dtype: str = "auto") -> str:
    """Write ``base`` plus ``adapter`` into the folder ``out``; returns a sentence on what was written.

    Needs about 4 bytes of memory per parameter of the base.

    Args:
        dtype: of the written weights; ``auto`` is the dtype of the base.

    Raises:
        MergeError: the adapter is for another base, the base is quantised, or ``out`` is not empty.
    """
    _check(base, adapter, out)
    transformers_logging.disable_progress_bar()
    own = AutoConfig.from_pretrained(base, local_files_only=True).dtype or torch.float32
    target = own if dtype == "auto" else getattr(torch, dtype)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True)
    # The folder gets its name only when it is complete.
    partial = out.with_name(f"{out.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    merged.to(target).save_pretrained(partial)
    for pattern in _COPIED:
        for path in base.glob(pattern):
            shutil.copy(path, partial / path.name)
    if out.exists():
        out.rmdir()
    partial.replace(out)
    return f"merged {adapter.resolve().name} into {base.resolve().name} as {target}: {out}".replace(
        "torch.", ""
    )


def _check(base: Path, adapter: Path, out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MergeError(f"{out.name} exists and is not an empty folder. Give another folder.")
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        shape = BaseShape.from_config(base / "config.json")
        digest = base_digest(base)
    except (OSError, ValueError) as error:
        raise MergeError(f"{base.name} is not a base model to merge into: {error}") from error
    if "quantization_config" in config:
        raise MergeError(
            f"{base.name} is quantised ({config['quantization_config'].get('quant_method')}). Merge into the 16-bit "
            "model that it was made from, and quantise the result."
        )
    try:
        inspect_artifact(adapter, base=shape, max_lora_rank=_HIGHEST_RANK, base_digest=digest)
    except ArtifactRefused as error:
        raise MergeError(f"{adapter.name}: {error}") from error
