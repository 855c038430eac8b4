"""The journey's data, and that the benchmark trains with the commands of the page."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from adapters.training.check.call_faults import call_faults
from adapters.training.data.reader import first_question, read_conversations
from benchmarks.__main__ import main
from benchmarks.harness.progress import ProgressReporter
from benchmarks.real import journey as journey_module
from benchmarks.real import journey_data
from benchmarks.real.general_questions import general_chats, is_right
from benchmarks.real.journey import Journey

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs/jobs/train-your-first-adapter.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("journey")
    journey_data.main(folder)
    return folder


def test_the_data_are_as_many_as_the_page_says_and_have_no_fault(data: Path) -> None:
    chats = {file.stem: read_conversations(file) for file in data.glob("*.jsonl")}
    assert {name: len(found) for name, found in chats.items()} == {
        "support": 300, "support-held-out": 60, "calls": 300, "calls-held-out": 60, "general-held-out": 50,
        "replay": 100,
    }  # fmt: skip
    assert not [
        fault for name in ("calls", "calls-held-out") for chat in chats[name] for fault in call_faults(chat)
    ]
    for name in ("support", "calls"):
        # A chat that begins with "Please cancel my order." goes on with other values.
        trained = {json.dumps(chat.messages) for chat in chats[name]}
        assert not trained & {json.dumps(chat.messages) for chat in chats[f"{name}-held-out"]}
    general = {first_question(chat) for chat in chats["general-held-out"]}
    assert not general & {first_question(chat) for chat in chats["replay"]}
    parallel = [m for chat in chats["calls"] for m in chat.messages if len(m.get("tool_calls") or ()) == 2]
    assert len(parallel) == 50


def test_every_general_question_knows_its_own_answer() -> None:
    for chat in general_chats():
        question, answer = (message["content"] for message in chat["messages"])
        assert is_right(question, answer) and not is_right(question, "I cannot say.")


def test_the_benchmark_trains_with_the_commands_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[set[tuple[str, ...]]] = []

    def record(*arguments: str) -> tuple[str, float]:
        run.append(_pairs(arguments[1:]))
        folder = Path(arguments[arguments.index("--out") + 1])
        folder.mkdir(parents=True)
        (folder / "training.json").write_text(json.dumps({"total_s": 90.0}))
        return "", 0.0

    monkeypatch.setattr(journey_module, "run_loragate", record)
    assert Journey(tmp_path, Path("BASE")).train([], ProgressReporter(quiet=True)) == 3.0
    blocks = re.findall(r"^```bash\nloragate train --base (.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    commands = [
        shlex.split("--base " + block.replace("\\\n", " ").replace("$BASE", "BASE")) for block in blocks
    ]
    assert [
        {tuple(part.replace(f"{tmp_path}/", "") for part in pair) for pair in pairs} for pairs in run
    ] == [_pairs(command) for command in commands]


def _pairs(flags: tuple[str, ...] | list[str]) -> set[tuple[str, ...]]:
    """Each flag with its value."""
    return set(zip(flags[::2], flags[1::2], strict=True))


def test_unknown_figures_and_folders_without_a_model_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["real", "--model", str(tmp_path)]) == 2
    assert "is not the folder of a model" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{}")
    assert main(["real", "--model", str(tmp_path), "--only", "calls_right,luck"]) == 2
    assert "There is no figure luck; use train_minutes, calls_right" in capsys.readouterr().err
