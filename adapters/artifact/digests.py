"""SHA-256 digests: of files, of a base model and of its chat template."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def base_digest(model_dir: Path) -> str:
    """SHA-256 over a base model's ``config.json`` and the sorted digests of its safetensors files.

    Names and folders do not count: a copy, or a renamed shard, has the same digest.

    Raises:
        FileNotFoundError: ``model_dir`` holds no ``config.json`` or no safetensors file.
    """
    weights = sorted(file_digest(path) for path in model_dir.glob("*.safetensors"))
    if not weights:
        raise FileNotFoundError("The base model folder holds no safetensors file.")
    parts = [file_digest(model_dir / "config.json"), *weights]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def template_digest(model_dir: Path) -> str | None:
    """SHA-256 of a base model's chat template, or None when it has none.

    ``chat_template.jinja`` takes precedence over ``tokenizer_config.json``, as in transformers.
    """
    template = model_dir / "chat_template.jinja"
    if template.is_file():
        return hashlib.sha256(template.read_bytes()).hexdigest()
    config = model_dir / "tokenizer_config.json"
    if not config.is_file():
        return None
    text = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    return hashlib.sha256(text.encode()).hexdigest() if isinstance(text, str) else None
