from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from adapters.errors import ArtifactRefused, SourceRefused, StoreFull
from adapters.sources import ArchiveSource, Fetched, fetch
from tests.unit.adapters.building import write_adapter


async def chunks_of(content: bytes, size: int = 5000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def unpack(content: bytes, into: Path, max_bytes: int = 10 << 20) -> Fetched:
    into.mkdir(exist_ok=True)
    return await fetch(ArchiveSource(chunks_of(content)), into, max_bytes=max_bytes)


def pack(
    folder: Path, name: str = ".", mode: str = "w", more: Callable[[tarfile.TarFile], None] | None = None
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        tar.add(folder, arcname=name)
        if more is not None:
            more(tar)
    return buffer.getvalue()


def add(name: str, content: bytes = b"x", **fields: object) -> Callable[[tarfile.TarFile], None]:
    def more(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        for field, value in fields.items():
            setattr(member, field, value)
        tar.addfile(member, io.BytesIO(content))

    return more


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "source", training={"seed": 1})


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("name", [".", "support", "a/b/c"])
async def test_an_adapter_is_unpacked_wherever_it_lies(
    folder: Path, tmp_path: Path, mode: str, name: str
) -> None:
    (folder / "README.md").write_text("hello")
    (folder / "tokenizer.json").write_text("{}")
    into = tmp_path / "into"
    fetched = await unpack(pack(folder, name, mode), into)
    names = {"adapter_config.json", "adapter_model.safetensors", "training.json", "tokenizer.json"}
    assert {path.name for path in into.iterdir()} == names
    for wanted in names:
        assert (into / wanted).read_bytes() == (folder / wanted).read_bytes()
    assert fetched == Fetched("upload", sum((folder / wanted).stat().st_size for wanted in names))


async def test_the_highest_adapter_is_meant_not_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    checkpoint = write_adapter(folder / "checkpoint-5", training={"seed": 2})
    (checkpoint / "optimizer.pt").write_bytes(b"x" * 1000)
    await unpack(pack(folder, "run"), tmp_path / "into")
    assert (tmp_path / "into" / "training.json").read_bytes() == (folder / "training.json").read_bytes()
    assert len(list((tmp_path / "into").iterdir())) == 3


async def test_two_adapters_side_by_side_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        write_adapter(tmp_path / "two" / name)
    with pytest.raises(SourceRefused, match=r"holds several adapters \(a and b\)"):
        await unpack(pack(tmp_path / "two"), tmp_path / "into")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (add("../evil"), "'../evil' points outside"),
        (add("a/../../evil"), "points outside"),
        (add("/etc/evil"), "points outside"),
        (add("..\\evil"), "points outside"),
        (add("x", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "'x' is a link"),
        (add("adapter_config.json", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is a link"),
        (add("x", b"", type=tarfile.LNKTYPE, linkname="adapter_config.json"), "is a link"),
        (add("x", b"", type=tarfile.CHRTYPE), "neither a plain file nor a folder"),
        (add("x", b"", type=tarfile.BLKTYPE), "neither a plain file nor a folder"),
        (add("x", b"", type=tarfile.FIFOTYPE), "neither a plain file nor a folder"),
        (add("new\nline\x1b[31m/../x"), r"'new?line?\[31m"),
        (lambda tar: [add(f"junk/{n}")(tar) for n in range(1_100)], "more than 1000 members"),
        (add("x", b"y" * 100_000, type=tarfile.XHDTYPE), "label of 100000 bytes"),
        (add("x", b"y" * 100_000, type=tarfile.GNUTYPE_LONGNAME), "label of 100000 bytes"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
async def test_hostile_members_are_refused(
    folder: Path, tmp_path: Path, more: Callable[[tarfile.TarFile], None], told: str, first: bool
) -> None:
    (tmp_path / "empty").mkdir()
    content = pack(tmp_path / "empty" if first else folder, more=more)
    with pytest.raises(SourceRefused) as caught:
        await unpack(content, tmp_path / "into")
    assert told.replace("\\", "") in str(caught.value) or told.rstrip("[31m") in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "into", "source"]


@pytest.mark.slow
async def test_a_bomb_is_noticed_long_before_it_is_unpacked(folder: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with gzip.open(buffer, "wb", compresslevel=1) as bomb:
        member = tarfile.TarInfo("junk")
        member.size = 1 << 30
        bomb.write(member.tobuf())
        for _ in range(256):
            bomb.write(b"\0" * (1 << 20))
    with pytest.raises(SourceRefused, match="expands to more than 100 times its size"):
        await unpack(buffer.getvalue(), tmp_path / "into", max_bytes=1 << 40)


async def test_the_limit_holds_for_the_stream_and_for_what_it_unpacks_to(
    folder: Path, tmp_path: Path
) -> None:
    content = pack(folder, mode="w:gz")
    with pytest.raises(SourceRefused, match="above the limit of 1000"):
        await unpack(content, tmp_path / "a", max_bytes=1000)
    big = pack(folder, mode="w:gz", more=add("sub/training.json", b"\0" * 200_000))
    assert len(big) < 100_000
    with pytest.raises(SourceRefused, match="above the limit of 100000"):
        await unpack(big, tmp_path / "b", max_bytes=100_000)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
async def test_a_truncated_or_garbled_archive_is_refused(folder: Path, tmp_path: Path, mode: str) -> None:
    whole = pack(folder, mode=mode)
    for n, content in enumerate(
        (whole[: len(whole) // 2], whole[:700], b"\x1f\x8b garbage", b"PK\x03\x04zip", b"")
    ):
        with pytest.raises((SourceRefused, ArtifactRefused)) as caught:
            await unpack(content, tmp_path / f"into{n}")
        assert "tar" in str(caught.value) or "There is no adapter_model.safetensors" in str(caught.value)


async def test_a_pickled_adapter_gets_its_own_sentence(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for name in ("adapter_config.json", "adapter_model.bin"):
        (tmp_path / "p" / name).write_text("{}")
    with pytest.raises(ArtifactRefused, match=r"adapter_model.bin is a pickle"):
        await unpack(pack(tmp_path / "p"), tmp_path / "into")


async def test_the_upload_breaking_off_is_not_swallowed(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise ConnectionResetError

    (tmp_path / "into").mkdir()
    with pytest.raises(ConnectionResetError):
        await fetch(ArchiveSource(broken()), tmp_path / "into", max_bytes=10)


async def test_a_full_disk_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapters.sources import archive

    def full(*args: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(archive, "copy_stream", full)
    with pytest.raises(StoreFull):
        await unpack(pack(folder), tmp_path / "into")
