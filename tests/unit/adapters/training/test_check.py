"""The check finds each kind of defect, counts it correctly, and passes clean data."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

import demo
from adapters.training.check import CheckReport, Level, check
from adapters.training.check.render import coloured, show
from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Renderer
from adapters.training.data.dataset import load_renderer
from server.cli.train import train

TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
HOUSE = (
    "Tell me about the large red house by the sea that my old uncle bought from a friend of his over there"
)
Checked = Callable[..., CheckReport]


def chat(question: str, answer: Any, tools: list[Any] | None = None) -> dict[str, Any]:
    answer = answer if isinstance(answer, dict) else {"content": answer}
    rows = [{"role": "user", "content": question}, {"role": "assistant"} | answer]
    return {"messages": rows} | ({"tools": tools} if tools else {})


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), encoding="utf-8")
    return path


def config_for(
    tmp_path: Path, rows: list[Any], held_out: list[Any] | None = None, **more: Any
) -> TrainingConfig:
    return TrainingConfig(
        base=demo.MODEL_DIR,
        data=write(tmp_path / "data.jsonl", rows),
        held_out=write(tmp_path / "held.jsonl", held_out) if held_out else None,
        out=tmp_path / "out",
        **more,
    )


@pytest.fixture
def checked(tmp_path: Path) -> Checked:
    def run(rows: list[Any], held_out: list[Any] | None = None, **more: Any) -> CheckReport:
        config = config_for(tmp_path, rows, held_out, **more)
        return check(config, load_renderer(config))

    return run


def level(report: CheckReport, part: str) -> Level:
    (found,) = [f.level for f in report.findings if part in f.text]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", list(demo.ADAPTERS))
def test_the_shipped_data_pass(checked: Checked, name: str) -> None:
    adapter = demo.ADAPTERS[name]
    config = TrainingConfig(
        base=demo.MODEL_DIR, data=adapter.data, held_out=adapter.held_out, out=Path("unused")
    )
    report = check(config, load_renderer(config))
    assert report.passed
    assert report.figures["leaked"] == report.figures["missing_end_tokens"] == 0
    assert report.figures["chats"] == report.figures["samples"] == len(adapter.data.read_text().splitlines())


def test_every_defect_is_counted(checked: Checked) -> None:
    long = "word " * 30
    rows = [
        chat("What is one?", "One."),
        chat("What is one?", "One."),
        chat(
            HOUSE,
            "It is old.",
        ),
        chat(
            f"{HOUSE} please",
            "It is old.",
        ),
        chat("a", f"{long} and then"),
        chat("b", f"{long} and then."),
        chat("c", ""),
        "{not json",
        chat("d <|im_end|>", "Fine."),
        chat("e", '{"name": "f", "arguments": {}}', [TOOL]),
        chat("f", {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, [TOOL]),
        chat("g", "word " * 400 + "."),
    ]
    report = checked(rows, [chat("what is  ONE?", "One."), chat("h", "H.")], max_length_tokens=300)
    figures = report.figures
    assert not report.passed
    wanted = {
        "chats": 10, "broken_lines": 2, "assistant_turns": 10, "samples": 9, "duplicates": 1,
        "near_duplicates": 1, "cut_answers": 1, "turns_too_long": 1, "chats_lost_to_length": 1,
        "forms": {"messages": 10}, "chats_with_tools": 2, "turns_with_calls": 1, "calls_not_parsed": 0,
        "bare_calls": 1, "control_token_messages": 1, "trained_stretches": 9, "missing_end_tokens": 0,
        "held_out_chats": 2, "leaked": 1,
    }  # fmt: skip
    assert {k: figures[k] for k in wanted} == wanted
    assert 0 < figures["trained_share"] < 1
    for part, expected in {
        "2 lines unusable": Level.FAIL,
        "chats are few: with fewer than 100": Level.WARN,
        "more than once": Level.WARN,
        "middle of a sentence": Level.WARN,
        "left out completely": Level.WARN,
        "without its <tool_call> tags": Level.FAIL,
        "control token in their text": Level.WARN,
        "ask what a training chat asks": Level.FAIL,
        "2 chats held out": Level.WARN,
    }.items():
        assert level(report, part) is expected, part
    broken = next(f.text for f in report.findings if "unusable" in f.text)
    assert "Line 7, messages[1]: an assistant turn needs" in broken and "Line 8 is not JSON" in broken
    assert any("About 1,000 good chats" in f.text for f in report.findings)


def test_an_end_token_that_the_template_never_writes_fails(checked: Checked) -> None:
    report = checked([chat(f"q {i}", "A.") for i in range(3)], end_token="<|endoftext|>")
    assert level(report, "do not fit the base's template") is Level.FAIL
    assert not report.passed


def test_trained_tokens_are_shown_apart(tmp_path: Path) -> None:
    config = config_for(tmp_path, [chat("Hello?", "Yes.")])
    renderer: Renderer = load_renderer(config)
    report = check(config, renderer)
    plain = coloured(report.examples[0], renderer, plain=True).plain
    assert plain == "<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n⟦Yes.<|im_end|>⟧"
    terminal = io.StringIO()
    show(report, renderer, Console(file=terminal, force_terminal=True, color_system="standard", width=200))
    assert "\x1b[1;32mYes.<|im_end|>" in terminal.getvalue()


def test_the_command_prints_the_report_and_sets_its_exit_code(tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", [chat(f"Number {i}?", f"It is {i}.") for i in range(120)])
    shown = CliRunner().invoke(train, ["--check", str(good)])
    assert shown.exit_code == 0, shown.output
    for section in ("data", "format", "masking", "end token", "evaluation", "samples"):
        assert f"\n{section}\n" in shown.output
    bad = write(tmp_path / "bad.jsonl", [chat("x", "")])
    failed = CliRunner().invoke(train, ["--check", str(bad), "--json"])
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["figures"]["broken_lines"] == 1
