from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import ArtifactRefused, SourceRefused, SourceUnavailable
from adapters.sources import HubSource, fetch
from tests.unit.adapters.building import write_adapter

COMMITS = {"main": "a" * 40, "v2": "b" * 40}


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as downloading a model takes."""

    protocol_version = "HTTP/1.1"
    folder: Path
    log: list[str]
    cut: set[str]  # files whose first download is interrupted
    token: str | None = None

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.log.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        if self.token and self.headers.get("Authorization") != f"Bearer {self.token}":
            self.refuse(401, "RepoNotFound")
        elif match := re.fullmatch(r"/api/models/acme/lora(?:/revision/([^?]+))?(?:\?.*)?", self.path):
            self.describe(match[1] or "main")
        elif match := re.match(r"/acme/lora/resolve/(\w{40})/([\w./%]+)", self.path):
            self.send_content(match[1], urllib.parse.unquote(match[2]), body)
        else:
            self.refuse(404, "RepoNotFound")

    def describe(self, revision: str) -> None:
        commit = COMMITS.get(revision, revision)
        if commit not in COMMITS.values():
            self.refuse(404, "RevisionNotFound")
            return
        found = [path for path in self.folder.rglob("*") if path.is_file()]
        files = [
            {"rfilename": path.relative_to(self.folder).as_posix(), "size": path.stat().st_size}
            for path in found
        ]
        self.reply(200, json.dumps({"id": "acme/lora", "sha": commit, "siblings": files}).encode())

    def send_content(self, commit: str, name: str, body: bool) -> None:
        content = (self.folder / name).read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if body and name in self.cut:
            self.cut.discard(name)
            self.reply(200, content, headers, send=content[: len(content) // 2])
            self.close_connection = True
            return
        self.reply(206 if start else 200, content[start:], headers, send=content[start:] if body else b"")

    def refuse(self, status: int, code: str) -> None:
        self.reply(status, b"{}", {"X-Error-Code": code})

    def reply(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, send: bytes | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content if send is None else send)

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, type[Hub]]]:
    folder = write_adapter(tmp_path / "repo", training={"seed": 1})
    (folder / "optimizer.pt").write_bytes(b"x" * 100_000)
    handler = type("Handler", (Hub,), {"folder": folder, "log": [], "cut": set()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


async def test_a_revision_is_downloaded_and_named_by_its_commit(hub: Any, into: Path) -> None:
    endpoint, handler = hub
    fetched = await fetch(HubSource("acme/lora", "v2", endpoint), into, max_bytes=1 << 20)
    assert fetched.label == "hf://acme/lora@" + COMMITS["v2"]
    names = ["adapter_config.json", "adapter_model.safetensors", "training.json"]
    assert sorted(path.name for path in into.iterdir()) == names
    for name in names:
        assert (into / name).read_bytes() == (handler.folder / name).read_bytes()
    assert fetched.size_bytes == sum((into / name).stat().st_size for name in names)
    assert not any("optimizer" in line for line in handler.log)
    assert all(COMMITS["v2"] in line for line in handler.log if "resolve" in line)


async def test_a_folder_of_a_repository_is_downloaded(hub: Any, into: Path) -> None:
    endpoint, handler = hub
    below = write_adapter(handler.folder / "runs" / "last", training={"seed": 2})
    (below / "chat_template.jinja").write_text("{{ messages }}")
    source = HubSource("acme/lora", "v2", endpoint, folder="runs/last")
    fetched = await fetch(source, into, max_bytes=1 << 20)
    assert fetched.label == "hf://acme/lora/runs/last@" + COMMITS["v2"]
    assert {path.name for path in into.iterdir()} == {path.name for path in below.iterdir()}
    assert (into / "training.json").read_bytes() == (below / "training.json").read_bytes()
    with pytest.raises(ArtifactRefused, match="in its sub-folder last; give the path of that folder"):
        await fetch(HubSource("acme/lora", "v2", endpoint, folder="runs"), into, max_bytes=1 << 20)


async def test_without_a_revision_main_is_meant(hub: Any, into: Path) -> None:
    fetched = await fetch(HubSource("acme/lora", None, hub[0]), into, max_bytes=1 << 20)
    assert fetched.label.endswith(COMMITS["main"])


async def test_a_download_that_breaks_off_is_taken_up_again(
    hub: Any, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, handler = hub
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    handler.cut.add("adapter_model.safetensors")
    await fetch(HubSource("acme/lora", "main", endpoint), into, max_bytes=1 << 20)
    weights = "adapter_model.safetensors"
    assert (into / weights).read_bytes() == (handler.folder / weights).read_bytes()
    assert sum(line.startswith("GET") and weights in line for line in handler.log) == 2


async def test_what_the_hub_refuses_is_explained(
    hub: Any, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, handler = hub
    with pytest.raises(SourceUnavailable, match="there is no revision 'v9'"):
        await fetch(HubSource("acme/lora", "v9", endpoint), into, max_bytes=1 << 20)
    with pytest.raises(SourceUnavailable, match="does not exist, or is private"):
        await fetch(HubSource("acme/none", None, endpoint), into, max_bytes=1 << 20)
    with pytest.raises(SourceRefused, match="no valid repository name"):
        await fetch(HubSource("a--b/..", None, endpoint), into, max_bytes=1 << 20)
    handler.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", handler.token)
    with pytest.raises(SourceUnavailable, match="does not exist, or is private"):
        await fetch(HubSource("acme/lora", None, endpoint), into, max_bytes=1 << 20)
    await fetch(HubSource("acme/lora", None, endpoint, own_token=True), into, max_bytes=1 << 20)


async def test_too_large_or_pickled_is_told_before_the_download(hub: Any, into: Path) -> None:
    endpoint, handler = hub
    with pytest.raises(SourceRefused, match="above the limit of 5000"):
        await fetch(HubSource("acme/lora", None, endpoint), into, max_bytes=5000)
    (handler.folder / "adapter_model.safetensors").rename(handler.folder / "adapter_model.bin")
    with pytest.raises(ArtifactRefused, match="is a pickle"):
        await fetch(HubSource("acme/lora", None, endpoint), into, max_bytes=1 << 20)
    assert not any("resolve" in line for line in handler.log)


async def test_a_hub_that_lies_about_sizes_is_stopped(
    hub: Any, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, handler = hub

    def lie(self: Hub, revision: str) -> None:
        files = [{"rfilename": p.name, "size": 1} for p in self.folder.iterdir()]
        self.reply(200, json.dumps({"id": "acme/lora", "sha": "a" * 40, "siblings": files}).encode())

    monkeypatch.setattr(handler, "describe", lie)
    with pytest.raises(SourceRefused, match="above the limit of 5000"):
        await fetch(HubSource("acme/lora", None, endpoint), into, max_bytes=5000)


async def test_a_hub_that_is_not_there(into: Path) -> None:
    with pytest.raises(SourceUnavailable, match="cannot be reached"):
        await fetch(HubSource("acme/lora", None, "http://127.0.0.1:9"), into, max_bytes=1 << 20)
