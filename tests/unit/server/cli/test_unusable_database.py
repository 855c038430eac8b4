"""A database that cannot be used: every command ends with one sentence and exit code 1."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.cli.main import main

COMMANDS = (
    ("migrate",),
    ("tenant", "list"),
    ("tenant", "add", "initech"),
    ("key", "add", "--role", "operator"),
    ("feedback", "list"),
)
needs_database = pytest.mark.parametrize("command", COMMANDS, ids=" ".join)


def fails(*args: str) -> str:
    """The sentence of a command that must fail; it names no file of the database."""
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), "a traceback"
    (line,) = result.output.strip().splitlines()
    return line


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with a migrated database."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount")
    assert CliRunner().invoke(main, ["migrate", "--data-dir", str(folder)]).exit_code == 0
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@needs_database
def test_a_damaged_file(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "loragate.db").write_bytes(b"this is no database\n" * 500)
    assert "database file is damaged, or is no SQLite database" in fails(
        *command, "--data-dir", str(tmp_path)
    )


def test_a_file_that_was_overwritten_in_the_middle(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["migrate", "--data-dir", str(tmp_path)]).exit_code == 0
    path = tmp_path / "loragate.db"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    assert "database file is damaged" in fails("tenant", "list", "--data-dir", str(tmp_path))


@needs_database
def test_a_folder_that_is_read_only(command: tuple[str, ...], mounted: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    assert "cannot be opened or written" in fails(*command, "--data-dir", str(mounted))


@needs_database
def test_a_folder_that_cannot_be_made(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be opened or written" in fails(*command, "--data-dir", str(tmp_path / "file" / "data"))


def test_a_full_disk(mounted: Path) -> None:
    with pytest.raises(OSError, match="No space"), (mounted / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    sentences = {fails("tenant", "add", f"t{number}", "--data-dir", str(mounted)) for number in range(2)}
    assert all("has room" in sentence or "is full" in sentence for sentence in sentences), sentences


@needs_database
def test_a_server_that_is_away(command: tuple[str, ...]) -> None:
    url = "postgresql://user:secret@127.0.0.1:1/name"
    sentence = fails(*command, "--database-url", url)
    assert "does not answer" in sentence and "secret" not in sentence


@pytest.mark.parametrize(
    "url", ["nonsense", "oracle://host/name", "postgresql+nothing://host/name", "nodb://x"]
)
def test_a_url_of_no_database(url: str) -> None:
    assert "is not the URL of a database" in fails("tenant", "list", "--database-url", url)


def test_a_new_database_gets_its_tables(tmp_path: Path) -> None:
    runner = CliRunner()
    first = runner.invoke(main, ["tenant", "list", "--data-dir", str(tmp_path)])
    assert first.exit_code == 0 and "has its tables now" in first.stderr and first.stdout == "none\n"
    second = runner.invoke(main, ["tenant", "list", "--data-dir", str(tmp_path)])
    assert second.exit_code == 0 and not second.stderr
