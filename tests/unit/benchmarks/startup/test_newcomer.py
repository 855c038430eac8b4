"""A newcomer's first minute, played with small commands in place of the server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.harness.errors import BenchmarkFailed
from benchmarks.startup.newcomer import commands_of, measure

README = Path(__file__).parents[4] / "README.md"


def test_the_readme_starts_a_server_with_its_first_command() -> None:
    assert commands_of(README.read_text(), "PORT=1") == [["make", "serve", "PORT=1"], ["make", "test"]]


def says(*lines: str) -> list[str]:
    """A command that shows these lines until Ctrl-C."""
    return ["sh", "-c", f"printf '%s\\n' {' '.join(map(repr, lines))}; exec sleep 60"]


@pytest.fixture
def answer(tmp_path: Path) -> str:
    file = tmp_path / "answer.json"
    file.write_text(json.dumps({"choices": [{"message": {"content": "Hello!"}}]}))
    return f"  curl -s {file.as_uri()}"


def test_commands_and_requests_are_counted_until_the_answer(answer: str) -> None:
    figures = measure([["true"], says("  curl -s file:///nowhere", answer, answer, "Ctrl-C stops it")])
    assert (figures["commands"], figures["pasted_requests"]) == (2, 2)
    assert figures["ready_s"] <= figures["first_answer_s"]


@pytest.mark.parametrize(
    ("commands", "why"),
    [
        ([["true"], ["false"]], "None of 2 commands started a server"),
        ([says("Ctrl-C stops it")], "shows no request"),
        ([says("  curl -s file:///nowhere", "Ctrl-C stops it")], "got no answer"),
    ],
    ids=["no server", "no request", "no answer"],
)
def test_what_is_missing_is_said(commands: list[list[str]], why: str) -> None:
    with pytest.raises(BenchmarkFailed, match=why):
        measure(commands)
