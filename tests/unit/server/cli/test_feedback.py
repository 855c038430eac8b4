"""`loragate feedback` against a database; what it exports is what the trainer reads."""

from __future__ import annotations

import asyncio
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from adapters.models import Feedback, Rating
from adapters.registry import Registry, connect
from adapters.training.data.reader import read_conversations
from server.cli.main import main

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def chat(answer: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer})


ENTRIES = (
    Feedback("acme", "r1", "support", 1, Rating.UP, NOON, messages=chat("Good day.")),
    Feedback("acme", "r2", "support", 2, Rating.DOWN, NOON + timedelta(hours=1), messages=chat("Better.")),
    Feedback("acme", "r3", "support", 2, Rating.UP, NOON, reason="tone"),
    Feedback("globex", "r4", "tools", 1, Rating.UP, NOON, messages=chat("Done.")),
)


def run(home: Path, *args: str) -> str:
    result = CliRunner().invoke(main, [*args, "--data-dir", str(home)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def home(tmp_path: Path, migrated_sqlite: Path) -> Path:
    shutil.copy(migrated_sqlite, tmp_path / "loragate.db")

    async def fill() -> None:
        engine = connect(f"sqlite:///{tmp_path}/loragate.db")
        for entry in ENTRIES:
            await Registry(engine).feedback.put(entry)
        await engine.dispose()

    asyncio.run(fill())
    return tmp_path


def test_list(home: Path) -> None:
    rows = json.loads(run(home, "feedback", "list", "acme", "--json"))
    assert [row["request_id"] for row in rows] == ["r2", "r1", "r3"]
    assert rows[0]["model"] == "support@2" and rows[0]["turns"] == 2 and rows[2]["reason"] == "tone"
    assert json.loads(run(home, "feedback", "list", "--rating", "down", "--limit", "1", "--json")) == rows[:1]


@pytest.mark.parametrize(
    ("filters", "answers"),
    [
        (["acme"], ["Good day."]),
        (["acme", "--rating", "all"], ["Good day.", "Better."]),
        ([], ["Good day.", "Done."]),
        (["acme", "--adapter", "support", "--version", "2", "--rating", "down"], ["Better."]),
    ],
)
def test_export(home: Path, filters: list[str], answers: list[str]) -> None:
    file = home / "chats.jsonl"
    assert f"wrote {len(answers)} chats" in run(home, "feedback", "export", *filters, "--out", str(file))
    assert [chat.messages[-1]["content"] for chat in read_conversations(file)] == answers
    assert run(home, "feedback", "export", *filters) == file.read_text(encoding="utf-8")
