"""Configurations of public models, for benchmarks with random weights (`--load-format dummy`)."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def names() -> list[str]:
    """The shapes there are, as `--shape` takes them."""
    return sorted(
        file.name.removesuffix(".json")
        for file in files(__package__).iterdir()
        if file.name.endswith(".json")
    )


def load(name: str) -> dict[str, Any]:
    """Read a shape as the model's own `config.json`.

    Raises:
        KeyError: there is no shape of this name.
    """
    if name not in names():
        raise KeyError(f"no shape {name!r}; there are: {', '.join(names())}")
    config: dict[str, Any] = json.loads((files(__package__) / f"{name}.json").read_text(encoding="utf-8"))
    return config
