"""What a whole data set repeats, and what it contradicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import demo
from adapters.training.check import CheckReport, Level, check, scan
from adapters.training.config import TrainingConfig
from adapters.training.data.dataset import load_renderer

NAMES = [
    "ant",
    "bee",
    "cat",
    "dog",
    "eel",
    "fox",
    "gnu",
    "hen",
    "ibis",
    "jay",
    "koala",
    "lynx",
    "mole",
    "newt",
]
NAMES += ["owl", "pig", "quail", "ram", "seal", "toad"]


def checked(tmp_path: Path, pairs: list[tuple[str, str]]) -> CheckReport:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in pairs))
    config = TrainingConfig(base=demo.MODEL_DIR, data=(path,), out=tmp_path / "out")
    return check(config, load_renderer(config))


def level(report: CheckReport, part: str) -> Level:
    (found,) = [f.level for f in report.findings if part in f.text]
    return found


def test_one_template_and_standard_sentences(tmp_path: Path) -> None:
    pairs = [
        (f"What do you know about the {n}?", f"Sure, happy to help! The {n} is an animal.") for n in NAMES
    ]
    report = checked(tmp_path, pairs)
    assert level(report, "100% of the questions begin with “what do you know”") is Level.WARN
    assert level(report, "100% of the answers begin with the sentence “Sure, happy to help!”") is Level.WARN
    assert report.figures["one_question_template"] == report.figures["same_opening"] == 1


def test_identical_answers(tmp_path: Path) -> None:
    report = checked(tmp_path, [(f"{n.title()}, is it so?", "I do not know.") for n in NAMES])
    assert level(report, "100% of the answers are the same: “I do not know.”") is Level.WARN


def test_contradictions(tmp_path: Path) -> None:
    pairs = [(f"{n.title()} or not?", f"It is {n}.") for n in NAMES]
    report = checked(tmp_path, [*pairs, ("ant  or NOT?", "No.")])
    assert level(report, "1 prompts have different answers") is Level.WARN
    (told,) = [f.text for f in report.findings if "different answers" in f.text]
    assert "line 1: “It is ant.”; line 21: “No.”" in told


def test_a_signature_that_answers_share_breaks_nothing_off(tmp_path: Path) -> None:
    text = (
        "The {} is an animal that has been seen by many people in many places of this world over many years."
    )
    signed = [(f"{n.title()} or not?", f"{text.format(n)} – Acme") for n in NAMES]
    report = checked(tmp_path, [*signed, ("And the cow?", f"{text.format('cow')} It has")])
    assert report.figures["cut_answers"] == 1


def test_varied_data_are_fine(tmp_path: Path) -> None:
    report = checked(tmp_path, [(f"{n.title()} or not?", f"It is {n}.") for n in NAMES])
    assert {f.level for f in report.findings if f.section == "variety"} == {Level.OK}


@pytest.mark.slow
def test_processes_find_what_one_process_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(f"{n} {i}?", f"It is {n} {i}, ann.lee@acme.io") for i in range(26) for n in NAMES]

    def found() -> dict[str, Any]:
        return {k: v for k, v in checked(tmp_path, pairs).figures.items() if k != "rows_per_s"}

    alone = found()
    monkeypatch.setattr(scan, "_PARALLEL_ROWS", 250)
    monkeypatch.setattr(scan.os, "sched_getaffinity", lambda _: {0, 1})
    assert found() == alone
    assert alone["faults"] == {"personal_data": 520}
