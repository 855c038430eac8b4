"""Configurations of public models, for benchmarks with random weights (`--load-format dummy`)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import demo

_FOLDER = Path(__file__).parent
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def names() -> list[str]:
    """The names that `--shape` accepts."""
    return sorted(file.stem for file in _FOLDER.glob("*.json"))


def load(name: str) -> dict[str, Any]:
    """The model's own `config.json`.

    Raises:
        KeyError: there is no shape of this name.
    """
    if name not in names():
        raise KeyError(f"There is no shape {name!r}; use one of {', '.join(names())}.")
    config: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return config


def write_model(name: str, folder: Path) -> Path:
    """Write a model folder without weights: the shape's config, and the demo's tokenizer and template.

    NOTE: the shape's vocabulary is larger than the tokenizer's, so most random tokens have no text. A benchmark
    therefore counts tokens by the server's usage and not by text.
    """
    folder.mkdir(parents=True)
    for file in _TOKENIZER_FILES:
        shutil.copy(demo.MODEL_DIR / file, folder / file)
    demo_config: dict[str, Any] = json.loads((demo.MODEL_DIR / "config.json").read_text(encoding="utf-8"))
    config = {**load(name), "eos_token_id": demo_config["eos_token_id"], "bos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder
