"""Tab completion: what it offers, and how it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from server.cli.main import main


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/usr/bin/bash")
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["completion", *args])


def offered(*words: str, incomplete: str) -> list[str]:
    complete = ShellComplete(main, {}, "loragate", "_LORAGATE_COMPLETE")
    return [item.value for item in complete.get_completions(list(words), incomplete)]


def test_commands_options_and_choices_are_offered() -> None:
    assert offered(incomplete="te") == ["tenant"]
    assert "set" in offered("key", incomplete="s")
    assert "--expires-in-days" in offered("key", "add", incomplete="--ex")
    assert offered("key", "add", "--role", incomplete="op") == ["operator"]


def test_installing_twice_adds_one_line(home: Path) -> None:
    (home / ".bashrc").write_text("alias l=ls")
    assert run("--install").exit_code == 0 and run("--install").exit_code == 0
    first, line = (home / ".bashrc").read_text().splitlines()
    assert first == "alias l=ls"
    assert "_LORAGATE_COMPLETE" in Path(line.split()[1]).read_text()


def test_fish_needs_no_start_file(home: Path) -> None:
    assert run("fish", "--install").exit_code == 0
    assert "loragate" in (home / ".config/fish/completions/loragate.fish").read_text()
    assert not (home / ".bashrc").exists()


def test_a_shell_that_is_not_known(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/rc")
    assert run().exit_code == 2 and "bash, zsh, fish" in run().output
    assert "_LORAGATE_COMPLETE" in run("zsh").stdout
