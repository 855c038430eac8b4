"""The complete check of an adapter folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.artifact.config import LoraConfig, read_config
from adapters.artifact.files import (
    CONFIG,
    TRAINING,
    WEIGHTS,
    list_names,
    open_plain,
    printable_value,
    read_json,
    require_files,
)
from adapters.artifact.header import read_header
from adapters.artifact.patterns import as_patterns
from adapters.artifact.scan import scan_weights
from adapters.artifact.shape import PROJECTIONS, BaseShape
from adapters.artifact.tensors import Pair, pair_tensors
from adapters.errors import ArtifactRefused

_KEPT = (
    "r",
    "lora_alpha",
    "use_rslora",
    "layers_to_transform",
)


@dataclass(frozen=True, slots=True)
class ArtifactReport:
    """The properties of an adapter folder that can be served."""

    rank: int  # the largest of any module
    alpha: float
    scaling: float  # of the modules without a pattern
    target_modules: tuple[str, ...]  # leaf names of the modules with tensors
    modules: tuple[str, ...]  # their full paths
    dtype: str  # F32, F16 or BF16: the most frequent one
    size_bytes: int  # of the weights file
    parameters: int
    config: Mapping[str, Any]  # canonical: only the settings that change the result
    training: Mapping[str, Any] | None  # training.json
    hints: tuple[str, ...]  # sentences about what may be wrong


def inspect_artifact(
    folder: Path,
    *,
    base: BaseShape,
    max_lora_rank: int,
    base_digest: str | None = None,
    max_bytes: int | None = None,
) -> ArtifactReport:
    """Check an adapter folder. Blocks while it reads every weight once (about 1 GB/s).

    `base_digest` is compared with that in `training.json`, if there is one.
    Raises: ArtifactRefused: with what was found, what was expected and what helps.
    """
    require_files(list_names(folder))
    raw = read_json(folder / CONFIG)
    config = read_config(raw, max_lora_rank, base.lora_modules())
    training = read_json(folder / TRAINING) if (folder / TRAINING).exists() else None
    _check_base(training, base_digest)
    with open_plain(folder / WEIGHTS) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if max_bytes is not None and size_bytes > max_bytes:
            raise ArtifactRefused(
                f"{WEIGHTS} has {size_bytes} bytes, above the limit of {max_bytes}; "
                "train with a lower rank or restart with a larger --max-adapter-bytes."
            )
        pairs = pair_tensors(read_header(file, size_bytes), config, base)
        scan_weights(file, pairs)
    return _report(raw, config, pairs, size_bytes, training)


def _check_base(training: Mapping[str, Any] | None, base_digest: str | None) -> None:
    found = (training or {}).get("base_digest")
    if base_digest is not None and found is not None and found != base_digest:
        raise ArtifactRefused(
            f"{TRAINING} says it was trained on base model {printable_value(found, 13)}, but this server has "
            f"{base_digest[:12]}; serve that base or train on this one."
        )


def _report(
    raw: Mapping[str, Any],
    config: LoraConfig,
    pairs: tuple[Pair, ...],
    size_bytes: int,
    training: Mapping[str, Any] | None,
) -> ArtifactReport:
    leaves = {pair.module.rpartition(".")[2] for pair in pairs}
    targets = tuple(sorted(leaves, key=(*PROJECTIONS, "embed_tokens", "lm_head").index))
    tensors = [tensor for pair in pairs for tensor in (pair.a, pair.b)]
    return ArtifactReport(
        rank=max(pair.rank for pair in pairs),
        alpha=config.alpha,
        scaling=config.scaling(),
        target_modules=targets,
        modules=tuple(pair.module for pair in pairs),
        dtype=Counter(tensor.dtype for tensor in tensors).most_common(1)[0][0],
        size_bytes=size_bytes,
        parameters=sum(tensor.shape[0] * tensor.shape[1] for tensor in tensors),
        config=_canonical(raw, config, pairs),
        hints=_unclear_alphas(config, pairs),
        training=training,
    )


def _canonical(raw: Mapping[str, Any], config: LoraConfig, pairs: tuple[Pair, ...]) -> dict[str, Any]:
    """The configuration reduced to the settings that change the result; PEFT's other fields vary between runs."""
    kept = {name: raw[name] for name in _KEPT if raw.get(name) not in (None, {}, [])}
    if ranks := {pair.module: pair.rank for pair in pairs if pair.module in config.ranks}:
        kept["rank_pattern"] = as_patterns(ranks)
    if alphas := {p.module: config.alpha_of(p.module) for p in pairs if p.module in config.alphas}:
        kept["alpha_pattern"] = as_patterns(alphas)
    fixed = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "inference_mode": True}
    leaves = {pair.module.rpartition(".")[2] for pair in pairs}
    return {**kept, **fixed, "target_modules": sorted(leaves)}


def _unclear_alphas(config: LoraConfig, pairs: tuple[Pair, ...]) -> tuple[str, ...]:
    for pair in pairs:
        if alphas := config.unclear_alpha(pair.module):
            shown = " and ".join(f"{alpha:g}" for alpha in alphas)
            return (
                f"Its alpha_pattern has patterns with the alphas {shown} for {pair.module}. PEFT saves patterns in "
                f"alphabetical order, so the one of the training is not known; {alphas[0]:g} is used, as PEFT does "
                "when it loads the adapter. Save it with patterns of which only one matches each module.",
            )
    return ()
