"""The files of one artifact: its manifest, and whether they are whole."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from adapters.artifact.digests import file_digest

MANIFEST = "manifest.json"


def is_whole(folder: Path, digest: str, *, deep: bool) -> bool:
    """Whether names and sizes are those of the manifest with this digest; `deep` reads and hashes every byte."""
    try:
        manifest = (folder / MANIFEST).read_bytes()
        if hashlib.sha256(manifest).hexdigest() != digest:
            return False
        files = json.loads(manifest)["files"]
        sizes_fit = all((folder / name).stat().st_size == files[name]["size_bytes"] for name in files)
        return sizes_fit and (not deep or all(describe(folder / name) == files[name] for name in files))
    except OSError:
        return False


def describe(path: Path) -> dict[str, Any]:
    """A file's entry in the manifest."""
    return {"sha256": file_digest(path), "size_bytes": path.stat().st_size}


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """JSON that is the same for the same value, so that its digest is, too."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True).encode() + b"\n"


def content_bytes(folder: Path) -> int:
    """The size of all files; 0 for a folder that was removed meanwhile."""
    with suppress(FileNotFoundError):
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0


def remove_tree(folder: Path) -> None:
    """Remove a read-only folder."""
    folder.chmod(0o755)
    shutil.rmtree(folder)
