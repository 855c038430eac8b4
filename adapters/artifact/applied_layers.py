"""Compares the layers that an adapter changes with those to which the engine applies LoRA."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from adapters.artifact.files import WEIGHTS, open_plain
from adapters.artifact.header import read_header
from adapters.artifact.shape import PROJECTIONS
from adapters.artifact.tensors import module_of


def changed_layers(folder: Path) -> frozenset[str]:
    """Full paths of the layers that an adapter in the store changes. Raises: ArtifactRefused: it is damaged."""
    with open_plain(folder / WEIGHTS) as file:
        names = read_header(file, os.fstat(file.fileno()).st_size)
    return frozenset(module_of(name) for name in names)


def explain_unapplied(modules: Collection[str], applied: Collection[str]) -> str | None:
    """Why an adapter that changes `modules` cannot be served by an engine that changes `applied`; None: it can."""
    left_out = set(modules) - set(applied)
    if not left_out:
        return None
    served = _leaves(applied)
    kinds = _leaves(left_out)
    advice = f"retrain with target_modules among {', '.join(served)}" if served else "serve without LoRA"
    return (
        f"The engine applies LoRA to {len(modules) - len(left_out)} of the adapter's {len(modules)} layers and "
        f"would leave out {', '.join(kinds)} without a word; restart without lora_target_modules in "
        f"--engine-args, or with {', '.join(kinds)} in it, or {advice}."
    )


def _leaves(modules: Collection[str]) -> list[str]:
    found = {module.rpartition(".")[2] for module in modules}
    return sorted(found, key=lambda leaf: (PROJECTIONS.index(leaf) if leaf in PROJECTIONS else 99, leaf))
