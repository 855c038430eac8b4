from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from adapters.artifact.files import BESIDE_MAX_BYTES
from adapters.errors import ArtifactRefused, SourceRefused, SourceUnavailable, StoreFull
from adapters.sources import HubSource, LocalSource, RemoteSource, fetch, parse_source, remote
from tests.unit.adapters.building import write_adapter

NAMES = ["adapter_config.json", "adapter_model.safetensors", "training.json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_adapter(tmp_path / "source", training={"seed": 1})
    (folder / "optimizer.pt").write_bytes(b"x" * 100_000)
    return folder


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def same(folder: Path, into: Path) -> bool:
    assert sorted(path.name for path in into.iterdir()) == NAMES
    return all((into / name).read_bytes() == (folder / name).read_bytes() for name in NAMES)


def test_sources_are_read_as_they_are_written(tmp_path: Path) -> None:
    assert parse_source("hf://acme/support-lora@v2") == HubSource("acme/support-lora", "v2")
    assert parse_source("hf://acme/support-lora").label == "hf://acme/support-lora"
    below = HubSource("acme/loras", "refs/pr/1", folder="v1/last")
    assert parse_source("hf://acme/loras/v1/last@refs/pr/1") == below
    assert below.label == "hf://acme/loras/v1/last@refs/pr/1"
    assert parse_source("s3://bucket/a/b/") == RemoteSource("s3://bucket/a/b")
    assert parse_source("gs://bucket/a") == RemoteSource("gs://bucket/a")
    assert parse_source(str(tmp_path), local_roots=None) == LocalSource(tmp_path.resolve())
    assert parse_source(f"file://{tmp_path}/a", local_roots=[tmp_path]) == LocalSource(
        tmp_path.resolve() / "a"
    )
    assert str(tmp_path) not in LocalSource(tmp_path).label


@pytest.mark.parametrize(
    "text",
    [
        "http://x/y",
        "hf://justname",
        "hf://a/../b",
        "hf://a/b/../../c/d",
        "hf://a/b//c",
        "hf://a/b/c/",
        "hf://a/b/c@",
        "s3://x",
        "s3://b/../c",
        "memory://x/y",
        "s3:///k",
        "",
        "relative/folder",
        "file://relative",
        "://",
    ],
)
def test_sources_that_are_not_known_are_refused(text: str) -> None:
    with pytest.raises(SourceRefused):
        parse_source(text, local_roots=None)


def test_a_tenant_names_only_what_begins_as_allowed() -> None:
    allowed = ["hf://", "s3://adapters/acme/"]
    assert parse_source("s3://adapters/acme/v1", prefixes=allowed) == RemoteSource("s3://adapters/acme/v1")
    assert parse_source("hf://a/b", prefixes=allowed) == HubSource("a/b")
    assert parse_source("hf://a/b", own_token=True) == HubSource("a/b", own_token=True)
    for text in ("s3://adapters/globex/v1", "s3://adapters/acme/../globex", "gs://adapters/acme/v1"):
        with pytest.raises(SourceRefused):
            parse_source(text, prefixes=allowed)
    with pytest.raises(SourceRefused, match="--tenant-sources"):
        parse_source("hf://a/b", prefixes=[])


def test_local_folders_are_allowed_below_the_roots_only(tmp_path: Path) -> None:
    (tmp_path / "roots" / "a").mkdir(parents=True)
    (tmp_path / "roots" / "link").symlink_to("/etc")
    roots = [tmp_path / "roots"]
    assert parse_source(str(tmp_path / "roots" / "a"), local_roots=roots)
    for path in ("/etc", tmp_path / "roots" / ".." / "x", tmp_path / "roots" / "link", tmp_path / "rootsx"):
        with pytest.raises(SourceRefused, match="may not be used as a source; upload the adapter"):
            parse_source(str(path), local_roots=roots)
    with pytest.raises(SourceRefused):
        parse_source(str(tmp_path / "roots"))


async def test_a_folder_is_copied_with_progress(folder: Path, into: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    fetched = await fetch(
        LocalSource(folder), into, max_bytes=1 << 20, progress=lambda done, total: seen.append((done, total))
    )
    assert same(folder, into)
    assert fetched.size_bytes == seen[-1][0] == sum((folder / name).stat().st_size for name in NAMES)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


async def test_folders_that_cannot_be_taken(folder: Path, into: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="does not exist") as caught:
        await fetch(LocalSource(tmp_path / "none"), into, max_bytes=1 << 20)
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(SourceRefused, match="above the limit of 100"):
        await fetch(LocalSource(folder), into, max_bytes=100)
    (folder / "adapter_model.safetensors").rename(tmp_path / "w")
    (folder / "adapter_model.safetensors").symlink_to(tmp_path / "w")
    with pytest.raises(ArtifactRefused, match=r"adapter_model.safetensors is a link"):
        (into / "adapter_config.json").unlink(missing_ok=True)
        await fetch(LocalSource(folder), into, max_bytes=1 << 20)


@pytest.fixture
def bucket(folder: Path) -> Iterator[Any]:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for path in folder.iterdir():
        memory.pipe(f"/bucket/run/{path.name}", path.read_bytes())
    memory.pipe("/bucket/run/checkpoint-1/adapter_model.safetensors", b"x")
    yield memory
    memory.store.clear()


async def test_a_bucket_is_copied(folder: Path, into: Path, bucket: Any) -> None:
    fetched = await fetch(RemoteSource("memory://bucket/run"), into, max_bytes=1 << 20)
    assert same(folder, into) and fetched.label == "memory://bucket/run"


async def test_fsspecs_local_files_are_copied_too(folder: Path, into: Path) -> None:
    await fetch(RemoteSource(f"file://{folder}"), into, max_bytes=1 << 20)
    assert same(folder, into)


async def test_a_bucket_without_an_adapter(into: Path, bucket: Any) -> None:
    with pytest.raises(SourceUnavailable, match="memory://bucket/none cannot be read"):
        await fetch(RemoteSource("memory://bucket/none"), into, max_bytes=1 << 20)
    with pytest.raises(SourceRefused, match="above the limit of 10000"):
        await fetch(RemoteSource("memory://bucket/run"), into, max_bytes=10_000)
    bucket.rm("/bucket/run/adapter_model.safetensors")
    with pytest.raises(ArtifactRefused, match=r"There is no adapter_model.safetensors"):
        await fetch(RemoteSource("memory://bucket/run"), into, max_bytes=1 << 20)


async def test_only_the_beginning_of_files_beside_the_weights_is_copied(
    folder: Path, into: Path, tmp_path: Path
) -> None:
    (folder / "tokenizer.json").write_bytes(b"x" * (BESIDE_MAX_BYTES + 9))
    (folder / "chat_template.jinja").symlink_to(folder / "tokenizer.json")
    await fetch(LocalSource(folder), into, max_bytes=1 << 20)
    assert {path.name for path in into.iterdir()} == {*NAMES, "tokenizer.json"}
    assert (into / "tokenizer.json").stat().st_size == BESIDE_MAX_BYTES
    (tmp_path / "bucket").mkdir()
    await fetch(RemoteSource(f"file://{folder}"), tmp_path / "bucket", max_bytes=2 << 20)
    assert (tmp_path / "bucket" / "tokenizer.json").stat().st_size == BESIDE_MAX_BYTES


async def test_an_adapter_in_a_sub_folder_is_found_but_not_taken(
    folder: Path, into: Path, bucket: Any, tmp_path: Path
) -> None:
    folder.rename(tmp_path / "moved")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "moved").rename(tmp_path / "run" / "checkpoints" / "last")
    with pytest.raises(ArtifactRefused, match="in its sub-folder checkpoints/last; give the path of that"):
        await fetch(LocalSource(tmp_path / "run"), into, max_bytes=1 << 20)
    with pytest.raises(ArtifactRefused, match="in its sub-folder run; give the path of that folder"):
        await fetch(RemoteSource("memory://bucket"), into, max_bytes=1 << 20)


async def test_a_broken_read_goes_on_where_it_stopped(
    folder: Path, into: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "CHUNK_BYTES", 1000)
    offsets: list[int] = []
    open_file = type(bucket).open

    class Flaky(io.BytesIO):
        """Breaks off after 4000 bytes, twice."""

        def seek(self, offset: int, whence: int = 0) -> int:
            offsets.append(offset)
            return super().seek(offset, whence)

        def read(self, size: int | None = -1) -> bytes:
            if len(offsets) < 3 and self.tell() >= 4000 * len(offsets):
                raise ConnectionResetError
            return super().read(size)

    def flaky(self: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        file = open_file(self, path, *args, **kwargs)
        return Flaky(file.read()) if path.endswith("safetensors") else file

    monkeypatch.setattr(type(bucket), "open", flaky)
    await fetch(RemoteSource("memory://bucket/run"), into, max_bytes=1 << 20)
    assert same(folder, into) and offsets == [0, 4000, 8000]


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
async def test_a_missing_package_is_named(
    into: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, package: str
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    sys.modules["fsspec.registry"]._registry.pop(scheme, None)
    with pytest.raises(
        SourceRefused, match=rf"{scheme}:// needs the package {package}; `pip install {package}`"
    ):
        await fetch(RemoteSource(f"{scheme}://bucket/run"), into, max_bytes=1 << 20)


async def test_a_full_disk_is_not_taken_for_a_broken_read(
    into: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        class Full:
            def tell(self) -> int:
                return 0

            def write(self, data: bytes) -> None:
                raise OSError(28, os.strerror(28))

            def __enter__(self) -> Any:
                return self

            def __exit__(self, *args: object) -> None: ...

        return Full()

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StoreFull):
        await fetch(RemoteSource("memory://bucket/run"), into, max_bytes=1 << 20)


async def test_a_cancelled_fetch_has_ended_when_the_cancellation_arrives(
    into: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading
    import time

    monkeypatch.setattr(remote, "CHUNK_BYTES", 10)
    started, running = threading.Event(), threading.Event()
    copy = remote._copy

    def slow(*args: Any) -> None:
        running.set()
        started.set()
        try:
            copy(*args)
            time.sleep(0.2)
            copy(*args[:2], args[2].with_name("again"), *args[3:])
        finally:
            running.clear()

    monkeypatch.setattr(remote, "_copy", slow)
    task = asyncio.create_task(fetch(RemoteSource("memory://bucket/run"), into, max_bytes=1 << 20))
    while not started.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not running.is_set()
