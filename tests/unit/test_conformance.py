"""`make conformance` and `make test-clients`: what they call a failure, and what their files may contain."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from clients.run import Outcome, table
from conformance.run import Recorder, compare

ROOT = Path(__file__).parents[2]
EXPECTED = tomllib.loads((ROOT / "tests/conformance/expected.toml").read_text(encoding="utf-8"))
DIFFERS = [
    {"reason": "one", "tests": ["a.py::test_other[*"]},
    {"reason": "two", "tests": ["a.py::test_at_times"], "by_chance": True},
]
LISTED = {"run": {"a.py": 1}, "differs": DIFFERS, "not_run": {}}
ONE, OTHER = "a.py::test_one", "a.py::test_other[x]"


@pytest.mark.parametrize(
    ("outcomes", "failed"),
    [
        ({ONE: "passed", OTHER: "failed"}, []),
        ({ONE: "failed", OTHER: "failed"}, [f"{ONE}: failed", "0 tests passed"]),
        ({ONE: "passed", OTHER: "passed"}, [f"{OTHER}: passes"]),
        ({ONE: "passed", "a.py::test_new": "skipped"}, ["a.py::test_new: skipped"]),
        ({ONE: "passed", "a.py::test_new": "passed"}, ["2 tests passed, 1 expected"]),
        ({ONE: "passed", "a.py::test_at_times": "passed"}, []),
        ({ONE: "passed", "a.py::test_at_times": "failed"}, []),
        ({}, ["0 tests passed, 1 expected"]),
    ],
)
def test_what_is_not_listed_is_a_failure(outcomes: dict[str, str], failed: list[str]) -> None:
    recorder = Recorder()
    recorder.outcomes = outcomes
    _, _, found = compare(recorder, LISTED, counts=True)
    assert len(found) == len(failed)
    assert all(expected in line for expected, line in zip(failed, found, strict=True))


def test_each_difference_has_a_reason_and_is_of_a_file_that_runs() -> None:
    assert all(entry["reason"] for entry in EXPECTED["differs"]) and all(EXPECTED["not_run"].values())
    patterns = [pattern for entry in EXPECTED["differs"] for pattern in entry["tests"]]
    assert {pattern.partition("::")[0] for pattern in patterns} <= set(EXPECTED["run"])
    assert len(patterns) == len(set(patterns))
    assert not [file for file in EXPECTED["run"] if any(fnmatchcase(file, p) for p in EXPECTED["not_run"])]


def test_a_cell_is_red_when_one_of_its_tests_is() -> None:
    outcomes = [
        Outcome("sdk", "chat", "passed", ""),
        Outcome("sdk", "tools[required-False]", "passed", ""),
        Outcome("sdk", "tools[required-True]", "failed", ""),
        Outcome("sdk", "tools_auto_stream_sdk", "passed", ""),
    ]
    assert table(outcomes).splitlines()[-1] == "| sdk | 1/1 | - | - | 1/1 | 1/2 | - | - | - | - |"


def test_locks_of_the_clients_name_no_host() -> None:
    lock = json.loads((ROOT / "tests/clients/node/package-lock.json").read_text(encoding="utf-8"))
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
    for file in ("clients.txt", "clients-openai3.txt"):
        text = (ROOT / "requirements" / file).read_text(encoding="utf-8")
        assert "://" not in text and not re.search(r"^torch==|^nvidia-", text, re.MULTILINE)
