"""A folder goes to the server in pieces; a broken connection costs the rest of one piece."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import click
import httpx
import pytest

from server.cli.adapters import upload as uploading
from server.cli.adapters.upload import add_folder, progress_text


class Client:
    """A server that keeps `kept` bytes of every piece whose connection breaks."""

    def __init__(self, breaks: int = 0, kept: int = 0) -> None:
        self.breaks, self.kept = breaks, kept
        self.received = b""
        self.offsets: list[int] = []
        self.added: dict[str, Any] = {}

    def call(self, method: str, path: str, **request: Any) -> Any:
        if path.endswith("/versions"):
            self.added = request["json"]
            return {"number": 3}
        if method == "POST":
            return {"id": "u1", "received_bytes": 0}
        return {"received_bytes": len(self.received)}

    def send(self, method: str, path: str, *, content: bytes, headers: dict[str, str]) -> Any:
        offset = int(headers["upload-offset"])
        assert (method, path) == ("PATCH", "/adapters/acme/x/uploads/u1") and offset == len(self.received)
        self.offsets.append(offset)
        if self.breaks:
            self.breaks -= 1
            self.received += content[: self.kept]
            raise httpx.ReadError("reset")
        self.received += content
        return {"received_bytes": len(self.received)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(uploading, "_PIECE_BYTES", 7000)
    monkeypatch.setattr(uploading.time, "sleep", lambda _: None)
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "blob").write_bytes(bytes(range(250)) * 80)
    (tmp_path / "adapter_model.safetensors").symlink_to("blob")  # as in the hub's cache
    (tmp_path / "optimizer.pt").write_bytes(b"big")
    return tmp_path


def add(client: Client, folder: Path) -> Any:
    return add_folder(client, "/adapters/acme/x", folder, {"promote": True})  # type: ignore[arg-type]


@pytest.mark.parametrize(("breaks", "kept"), [(0, 0), (2, 0), (3, 1234)])
def test_it_arrives_whole(folder: Path, breaks: int, kept: int) -> None:
    client = Client(breaks, kept)
    assert add(client, folder) == {"number": 3}
    assert client.added == {"promote": True, "source": "upload:u1"}
    assert len(client.offsets) >= 4 + breaks - 1
    with tarfile.open(fileobj=io.BytesIO(client.received)) as tar:
        assert tar.getnames() == ["adapter_config.json", "adapter_model.safetensors"]
        weights = tar.extractfile("adapter_model.safetensors")
        assert weights is not None and weights.read() == (folder / "blob").read_bytes()


def test_a_connection_that_stays_broken_is_told(folder: Path) -> None:
    with pytest.raises(click.ClickException, match="broke 6 times"):
        add(Client(breaks=99), folder)


def test_pickles_stay_here_and_are_named(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"code" * 99)
    client = Client()
    add(client, folder)
    with tarfile.open(fileobj=io.BytesIO(client.received)) as tar:
        assert {member.name: member.size for member in tar}["adapter_model.bin"] == 0


def test_progress_is_read_as_text() -> None:
    assert (
        progress_text({"fetched_bytes": 12_000_000, "total_bytes": 50_000_000}) == "fetched 12.0 of 50.0 MB"
    )
    assert progress_text({"fetched_bytes": 12_000_000, "total_bytes": None}) == "fetched 12.0 of … MB"
