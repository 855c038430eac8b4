"""The committed JSONL files are what the generator writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import demo
from adapters.training.data.reader import read_conversations
from demo.data.__main__ import write_all
from demo.data.acme import CATALOGUE, answer_about
from demo.data.globex import TOOLS


def test_the_committed_files_are_the_generators(tmp_path: Path) -> None:
    write_all(tmp_path)
    for adapter in demo.ADAPTERS.values():
        for committed in (adapter.data, adapter.held_out):
            assert committed.read_bytes() == (tmp_path / committed.name).read_bytes(), committed.name


@pytest.mark.parametrize("adapter", demo.ADAPTERS.values(), ids=lambda a: a.public_name)
def test_no_held_out_question_is_trained(adapter: demo.DemoAdapter) -> None:
    def first(path: Path) -> set[str]:
        return {
            next(m["content"] for m in c.messages if m["role"] == "user") for c in read_conversations(path)
        }

    trained, held_out = first(adapter.data), first(adapter.held_out)
    assert len(held_out) > 80
    assert not trained & held_out


def test_every_call_names_a_shown_tool_with_its_arguments() -> None:
    for chat in read_conversations(demo.ADAPTERS["globex-tools"].data):
        shown = {t["function"]["name"]: t["function"]["parameters"] for t in chat.tools}
        for message in chat.messages:
            for call in message.get("tool_calls", ()):
                function = call["function"]
                assert list(function["arguments"]) == shown[function["name"]]["required"]
    assert set(TOOLS) == {"get_weather", "track_order", "book_meeting", "order_item"}


def test_answers_are_grammatical_for_one() -> None:
    assert (
        answer_about("Echo Horn", "warranty")
        == "Thanks for asking Acme! The Echo Horn has a warranty of 1 year."
    )
    assert "1 years" not in json.dumps(
        [answer_about(p, a) for p in CATALOGUE for a in ("warranty", "delivery")]
    )


def test_importing_demo_is_light() -> None:
    code = "import sys, demo; assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(demo.__file__).parents[1])
