"""The files of an adapter folder: which ones are taken, and how they are opened and parsed."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

from adapters.errors import ArtifactRefused

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TRAINING = "training.json"
WANTED = frozenset({CONFIG, WEIGHTS, TRAINING})
"""The files that are taken from a source; README, tokenizer, optimizer state and others are ignored."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_JSON_MAX_BYTES = 4 << 20


def require_files(names: Collection[str]) -> None:
    """Check that a folder with these file names can be an adapter. Raises: ArtifactRefused."""
    if WEIGHTS not in names:
        pickled = sorted(
            name for name in names if name.startswith("adapter_model") and name.endswith(_PICKLES)
        )
        if pickled:
            raise ArtifactRefused(
                f"{pickled[0]} is a pickle, which can run code when loaded; "
                f"save the adapter again with safe_serialization=True, which writes {WEIGHTS}."
            )
        if any(name.startswith("adapter_model-") and name.endswith(".safetensors") for name in names):
            raise ArtifactRefused(f"The weights are split over several files; save them as one {WEIGHTS}.")
        if "model.safetensors" in names or "model.safetensors.index.json" in names:
            raise ArtifactRefused(
                f"This is a whole model, not an adapter: there is no {WEIGHTS}; "
                "save the PEFT model itself, not the merged one."
            )
        raise ArtifactRefused(f"There is no {WEIGHTS}; give the folder that PEFT's save_pretrained wrote.")
    if CONFIG not in names:
        raise ArtifactRefused(f"There is no {CONFIG} beside {WEIGHTS}; give the folder that PEFT wrote.")


def open_plain(path: Path) -> BinaryIO:
    """Open a regular file for reading; never follow a link. Raises: ArtifactRefused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise ArtifactRefused(
                f"{path.name} is a link; copy the folder with its contents (cp -rL) and give the copy."
            ) from error
        raise ArtifactRefused(f"{path.name} cannot be opened; check that it is a readable file.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactRefused(f"{path.name} is not a regular file; give the folder that PEFT wrote.")
    return os.fdopen(descriptor, "rb")


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON object. Raises: ArtifactRefused."""
    with open_plain(path) as file:
        text = file.read(_JSON_MAX_BYTES + 1)
    if len(text) > _JSON_MAX_BYTES:
        raise ArtifactRefused(
            f"{path.name} is larger than {_JSON_MAX_BYTES >> 20} MiB; it should be a few kB."
        )
    return parse_json(text, path.name)


def parse_json(text: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object, strictly: no duplicate names, no NaN. Raises: ArtifactRefused."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactRefused(f"{name} is not readable as JSON; save the adapter again.") from error
    if not isinstance(value, dict):
        raise ArtifactRefused(
            f"{name} must be a JSON object, found {type(value).__name__}; save the adapter again."
        )
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate name")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def printable(value: object, limit: int = 60) -> str:
    """A value from an adapter's file in a form for messages: printable characters only, and short."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
