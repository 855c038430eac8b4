"""Digests of a base: content counts, names do not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from adapters.artifact.digests import base_digest, file_digest, template_digest


def model(folder: Path, *shards: bytes, config: str = "{}", name: str = "model-{}.safetensors") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(config)
    for at, shard in enumerate(shards):
        (folder / name.format(at)).write_bytes(shard)
    return folder


def test_file_digest_is_sha256(tmp_path: Path) -> None:
    content = b"x" * 3_000_000
    (tmp_path / "f").write_bytes(content)
    assert file_digest(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_the_base_digest_goes_by_content(tmp_path: Path) -> None:
    one = base_digest(model(tmp_path / "a", b"1", b"2"))
    assert base_digest(model(tmp_path / "b", b"2", b"1", name="other-{}.safetensors")) == one
    assert base_digest(model(tmp_path / "c", b"1", b"3")) != one
    assert base_digest(model(tmp_path / "d", b"1", b"2", config='{"a": 1}')) != one


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no safetensors"):
        base_digest(model(tmp_path / "a"))


def test_the_template_file_wins_over_the_tokenizers(tmp_path: Path) -> None:
    assert template_digest(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "old"}))
    assert template_digest(tmp_path) == hashlib.sha256(b"old").hexdigest()
    (tmp_path / "chat_template.jinja").write_text("new")
    assert template_digest(tmp_path) == hashlib.sha256(b"new").hexdigest()
