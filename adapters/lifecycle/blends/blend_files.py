"""The files of blends that requests ask for: computed, checked and removed in one thread, kept on the disk meanwhile.

They lie in a staging folder of the store, which is gone when the process has ended, however it ends.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from adapters.artifact import CONFIG, WEIGHTS, explain_unapplied, inspect_artifact
from adapters.artifact.combination import ScaledArtifact, combine
from adapters.errors import ArtifactRefused
from adapters.lifecycle.adding import Rules
from adapters.store.content import json_bytes
from adapters.store.fsync import raising_store_full
from adapters.store.store import Store


@dataclass(frozen=True, slots=True)
class BlendFolder:
    """A blend's own folder, by its content."""

    digest: str
    path: Path
    size_bytes: int


class BlendFiles:
    """Writes and removes the folders. All methods block and must be called in the same thread, one at a time."""

    def __init__(self, store: Store, rules: Rules) -> None:
        self._store = store
        self._rules = rules
        self._open = ExitStack()
        self._root: Path | None = None
        self._uses: Counter[str] = Counter()

    def write(self, parts: Sequence[ScaledArtifact]) -> BlendFolder:
        """Combine the parts; every call needs a `remove`. Raises: ArtifactRefused, StoreFull."""
        with raising_store_full():
            root = self._folder()
            new = Path(tempfile.mkdtemp(dir=root))
            try:
                return self._write(parts, new, root)
            finally:
                shutil.rmtree(new, ignore_errors=True)

    def remove(self, digest: str) -> None:
        """Remove the folder, unless another blend has the same content."""
        self._uses[digest] -= 1
        if self._uses[digest] <= 0 and self._root is not None:
            del self._uses[digest]
            shutil.rmtree(self._root / digest, ignore_errors=True)

    def close(self) -> None:
        """Remove everything."""
        self._open.close()
        self._root = None

    def _folder(self) -> Path:
        if self._root is None:
            self._root = self._open.enter_context(self._store.staging()).files
        return self._root

    def _write(self, parts: Sequence[ScaledArtifact], new: Path, root: Path) -> BlendFolder:
        rules = self._rules
        rank, size = rules.max_lora_rank, rules.max_bytes
        combine(parts, new, base=rules.base, max_lora_rank=rank, max_bytes=size)
        report = inspect_artifact(new, base=rules.base, max_lora_rank=rank, max_bytes=size)
        layers = rules.lora_layers()
        if layers is not None and (reason := explain_unapplied(report.modules, layers)):
            raise ArtifactRefused(reason)
        (new / CONFIG).write_bytes(json_bytes(report.config))
        digest = _digest(new)
        if not (root / digest).exists():
            new.rename(root / digest)
        self._uses[digest] += 1
        return BlendFolder(digest, root / digest, report.size_bytes)


def _digest(folder: Path) -> str:
    found = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        with (folder / name).open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()
