"""`--check` of a file with better and worse answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from server.cli.train import train


def checked(path: Path, rows: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = CliRunner().invoke(train, ["--check", str(path), "--json"])
    return result.exit_code, json.loads(result.stdout.splitlines()[-1])


def texts(report: dict[str, Any], level: str) -> str:
    return "\n".join(f["text"] for f in report["findings"] if f["level"] == level)


def pair(number: int, chosen: str = "Yes, of course.", rejected: str = "No, that is bad.") -> dict[str, Any]:
    return {"prompt": f"Question {number}?", "chosen": chosen, "rejected": rejected}


def test_a_good_file_passes(tmp_path: Path) -> None:
    rows = [pair(i, f"Yes, {i} it is.", f"No, {i} is not.") for i in range(400)]
    code, report = checked(tmp_path / "pairs.jsonl", rows)
    assert code == 0 and report["passed"]
    assert (report["figures"]["pairs"], report["figures"]["broken_lines"]) == (400, 0)
    assert not texts(report, "warn")


def test_the_faults_of_pairs_are_named(tmp_path: Path) -> None:
    rows = [pair(i) for i in range(3)]
    rows += [
        {"prompt": "a", "chosen": "same", "rejected": "same"},
        {"prompt": "a", "chosen": "alone"},
        {
            "chosen": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "1"}],
            "rejected": [{"role": "user", "content": "y"}, {"role": "assistant", "content": "2"}],
        },
        pair(1),
        pair(2, "No, that is bad.", "Yes, of course."),
        {"prompt": "lonely", "completion": "bad", "label": False},
    ]
    code, report = checked(tmp_path / "pairs.jsonl", rows)
    failed, warned = texts(report, "fail"), texts(report, "warn")
    assert code == 1 and not report["passed"]
    assert "6 rows read, 3 unusable" in failed
    assert "Line 4: chosen and rejected are the same answer" in failed
    assert "Line 5: `rejected` must be text" in failed
    assert "Line 6: chosen and rejected answer different prompts" in failed
    assert "line 8 prefers what line 3 rejects" in failed
    assert "line 7 is line 2 again" in warned
    assert "1 worse answers have no better one and are left out\n  line 9" in warned


@pytest.mark.parametrize(
    ("chosen", "rejected", "word"),
    [("A long answer " * 9, "Short.", "longer"), ("S.", "x y " * 9, "shorter")],
)
def test_a_bias_of_length_is_a_warning(tmp_path: Path, chosen: str, rejected: str, word: str) -> None:
    _, report = checked(tmp_path / "pairs.jsonl", [pair(i, chosen + str(i), rejected) for i in range(30)])
    assert f"the better answer is the {word} one in 100% of the pairs" in texts(report, "warn")


def test_faults_in_the_better_answers_are_those_of_chats(tmp_path: Path) -> None:
    secret = "The key is AKIAIOSFODNN7EXAMPL2, use it."
    _, report = checked(tmp_path / "pairs.jsonl", [pair(1, secret)])
    assert "have a secret" in texts(report, "fail")


def test_for_people_the_samples_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(pair(1)) + "\n")
    shown = CliRunner().invoke(train, ["--check", str(path)]).output
    assert "⟦Yes, of course.<|im_end|>⟧" in shown and "⟦No, that is bad.<|im_end|>⟧" in shown
