"""`python -m benchmarks`: the table of benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

import benchmarks
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.harness.errors import BenchmarkFailed, InvalidOption
from benchmarks.soak import benchmark as soak


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_name_starts_a_benchmark(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: python -m benchmarks {name}" in capsys.readouterr().out


def test_every_folder_has_a_name() -> None:
    folders = {path.parent.name for path in Path(benchmarks.__path__[0]).glob("*/__init__.py")}
    named = {module.partition(".")[0] for module, _ in BENCHMARKS.values()}
    assert folders - {"harness"} == named


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--help"], 0), (["luck"], 2)])
def test_the_list_of_benchmarks(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == code
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in lines] == list(BENCHMARKS)


@pytest.mark.parametrize(
    ("error", "code"),
    [(BenchmarkFailed("no token"), 1), (httpx.ConnectError("no server"), 1), (InvalidOption("--seed"), 2)],
)
def test_an_error_ends_with_one_sentence(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: Sequence[str]) -> int:
        raise error

    monkeypatch.setattr(soak, "main", fail)
    assert main(["soak"]) == code
    assert capsys.readouterr().err == f"soak: {error}\n"
