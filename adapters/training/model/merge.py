"""Base and adapter as one model, for those who serve this one adapter only.

The sum is made in float32 and rounded once, into the dtype that is asked for. A 4-bit base is refused: merged into
it an adapter is rounded away in good part (peft#2321); the base it was made from, in 16 bits, is what to merge into.
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

_HIGHEST_RANK = 512  # vLLM's own limit; the merged model does not know of ranks
_BESIDE = (
    "*.jinja",
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)


def merge(base: Path, adapter: Path, out: Path, dtype: str = "auto") -> str:
    """Write ``base`` plus ``adapter`` into the folder ``out``; one sentence on what was written.

    Needs about 4 bytes of memory per parameter of the base.

    Args:
        dtype: of the written weights; ``auto`` is the base's own.

    Raises:
        MergeError: they do not belong together, the base is quantised, or ``out`` is not empty.
    """
    _check(base, adapter, out)
    transformers_logging.disable_progress_bar()
    own = AutoConfig.from_pretrained(base, local_files_only=True).dtype or torch.float32
    wanted = own if dtype == "auto" else getattr(torch, dtype)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True)
    # A new name takes the folder's place only when it is whole.
    scratch = out.with_name(f"{out.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    merged.to(wanted).save_pretrained(scratch)
    for pattern in _BESIDE:
        for path in base.glob(pattern):
            shutil.copy(path, scratch / path.name)
    if out.exists():
        out.rmdir()
    scratch.replace(out)
    return f"merged {adapter.resolve().name} into {base.resolve().name} as {wanted}: {out}".replace(
        "torch.", ""
    )


def _check(base: Path, adapter: Path, out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MergeError(f"{out.name} exists and is not an empty folder; give another one.")
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        shape = BaseShape.from_config(base / "config.json")
        digest = base_digest(base)
    except (OSError, ValueError) as error:
        raise MergeError(f"{base.name} is no base model that can be merged into: {error}") from error
    if "quantization_config" in config:
        raise MergeError(
            f"{base.name} is quantised ({config['quantization_config'].get('quant_method')}). Merge into the model "
            "it was made from, in 16 bits, and quantise the result."
        )
    try:
        inspect_artifact(adapter, base=shape, max_lora_rank=_HIGHEST_RANK, base_digest=digest)
    except ArtifactRefused as error:
        raise MergeError(f"{adapter.name}: {error}") from error
