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
from server.cli.adapters.admin_client import Refusal
from server.cli.adapters.upload import add_folder, progress_text


class Client:
    """A server that keeps `kept` bytes of every piece whose connection breaks."""

    def __init__(self, breaks: int = 0, kept: int = 0, error: Exception | None = None) -> None:
        self.breaks, self.kept = breaks, kept
        self.error = error or httpx.ReadError("reset")
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
            raise self.error
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


@pytest.mark.parametrize("status", [409, 503])
def test_a_refusal_that_passes_is_tried_again(folder: Path, status: int) -> None:
    client = Client(breaks=2, kept=10, error=Refusal("wait", status))
    assert add(client, folder) == {"number": 3} and len(client.received) > 20_000
    with pytest.raises(Refusal, match="wait"):
        add(Client(breaks=99, error=Refusal("wait", status)), folder)


def test_another_refusal_ends_the_upload(folder: Path) -> None:
    with pytest.raises(Refusal, match="too large"):
        add(Client(breaks=1, error=Refusal("too large", 400)), folder)


def test_only_the_beginning_of_a_tokenizer_is_sent(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(b"x" * (1 << 20))
    client = Client()
    add(client, folder)
    with tarfile.open(fileobj=io.BytesIO(client.received)) as tar:
        assert {member.name: member.size for member in tar}["tokenizer.json"] == 512 << 10


def test_what_is_no_adapter_stays_here_and_is_explained(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"code" * 99)
    client = Client()
    with pytest.raises(click.ClickException, match=r"adapter_model.bin is a pickle"):
        add(client, folder)
    (folder / "run" / "last").mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.bin"):
        (folder / name).rename(folder / "run" / "last" / name)
    with pytest.raises(click.ClickException, match="in its sub-folder run/last; give the path"):
        add(client, folder)
    assert not client.received


def test_progress_is_read_as_text() -> None:
    assert (
        progress_text({"fetched_bytes": 12_000_000, "total_bytes": 50_000_000}) == "fetched 12.0 of 50.0 MB"
    )
    assert progress_text({"fetched_bytes": 12_000_000, "total_bytes": None}) == "fetched 12.0 of … MB"
