"""The files of records: when they are complete, where they go, and how long they stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.usage.records import record_files
from server.usage.records.record_files import PlaceUnavailable, RecordFiles

DAY_S = 86_400


class Disk:
    """Files in a data folder, and their place, at a time that is set by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.place, self.now = folder / "data", folder / "place", 1_800_000_000.0
        self.files = self.opened()

    def opened(self, url: str = "", **limits: int) -> RecordFiles:
        limits = {"keep_days": 30, "max_bytes": 1 << 30, **limits}
        return RecordFiles(url or str(self.place), self.folder, clock=lambda: self.now, **limits)  # type: ignore[arg-type]

    def publish(self, *, everything: bool = True) -> None:
        self.files.complete(everything=everything)
        self.files.publish()

    def names(self, tenant: str) -> list[str]:
        return sorted(file.name for file in (self.place / tenant).glob("*"))

    def text(self, tenant: str) -> bytes:
        return b"".join((self.place / tenant / name).read_bytes() for name in self.names(tenant))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_each_tenant_has_files_of_its_own(disk: Disk) -> None:
    assert disk.files.write("acme", [b"a\n", b"b\n"]) and disk.files.write("globex", [b"c\n"])
    assert disk.files.write("acme", [b"d\n"])
    assert not disk.place.exists() and disk.files.waiting_bytes() == 8
    disk.publish()
    assert (disk.text("acme"), disk.text("globex")) == (b"a\nb\nd\n", b"c\n")
    (name,) = disk.names("acme")
    assert name.startswith("20270115T080000Z-") and name.endswith(".jsonl")
    assert (disk.place / "acme").stat().st_mode & 0o077 == 0, "only for the server's own user"
    assert disk.files.waiting_bytes() == 0


def test_a_file_is_complete_when_it_is_full_or_old(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.files.write("acme", [b"a\n"])
    disk.publish(everything=False)
    assert disk.names("acme") == []
    disk.now += record_files.FILE_AGE_S
    disk.publish(everything=False)
    assert len(disk.names("acme")) == 1
    monkeypatch.setattr(record_files, "FILE_BYTES", 4)
    disk.files.write("acme", [b"full\n"])
    disk.publish(everything=False)
    assert len(disk.names("acme")) == 2


def test_what_a_killed_server_left_is_moved_by_the_next_one(disk: Disk) -> None:
    disk.files.write("acme", [b"a\n"])
    disk.files = disk.opened()
    disk.files.write("acme", [b"b\n"])
    disk.files.publish()
    assert disk.text("acme") == b"a\n", "the growing file stays"
    disk.publish()
    assert sorted(disk.text("acme").split()) == [b"a", b"b"]


def test_files_wait_while_their_place_is_away(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.place.write_text("a file where a folder should be")
    disk.files.write("acme", [b"a\n"])
    with pytest.raises(PlaceUnavailable):
        disk.publish()
    monkeypatch.setattr(record_files, "WAITING_BYTES", 3)
    assert not disk.files.write("acme", [b"bb\n"]), "no room"
    disk.place.unlink()
    disk.publish()
    assert disk.text("acme") == b"a\n" and disk.files.write("acme", [b"bb\n"])


def test_old_files_and_the_oldest_beyond_the_size_are_removed(disk: Disk) -> None:
    for tenant in ("acme", "acme", "acme", "globex"):
        disk.files.write(tenant, [b"12345\n"])
        disk.publish()
        disk.now += DAY_S
    (disk.place / "acme" / "notes.txt").write_text("not ours")
    assert disk.files.remove_old() == 0
    assert disk.opened(keep_days=3).remove_old() == 1
    _, second, other = disk.names("acme")
    assert disk.opened(max_bytes=7).remove_old() == 1
    assert disk.names("acme") == [second, other] and len(disk.names("globex")) == 1


def test_a_bucket_gets_whole_files(disk: Disk) -> None:
    disk.files = disk.opened("memory://records")
    disk.files.write("acme", [b"a\n"])
    disk.publish()
    from fsspec.implementations.memory import MemoryFileSystem

    (name,) = MemoryFileSystem().ls("/records/acme", detail=False)
    assert MemoryFileSystem().cat_file(name) == b"a\n"
    assert disk.opened("memory://records", max_bytes=1).remove_old() == 1
    assert not MemoryFileSystem().exists(name)
