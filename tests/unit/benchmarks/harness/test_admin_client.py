"""The archive that uploads an adapter."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from benchmarks.harness.admin_client import pack
from demo.random_adapter import write_random_adapter


def test_an_adapter_is_packed_with_its_two_files(tmp_path: Path) -> None:
    folder = write_random_adapter(tmp_path / "a", seed=1, rank=8)
    (folder / "notes.txt").write_text("stay here")
    with tarfile.open(fileobj=io.BytesIO(pack(folder))) as tar:
        assert tar.getnames() == ["adapter_config.json", "adapter_model.safetensors"]
