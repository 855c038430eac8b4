"""Better and worse answers: the rows that people have, what is paired with what, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.training.config import TrainingConfig
from adapters.training.data.dataset import load_renderer, prepare
from adapters.training.data.preferences.pairs import match_rows
from adapters.training.data.preferences.rows import PreferenceRow, is_preference_row, parse_preference
from adapters.training.errors import DataError

Configure = Callable[..., TrainingConfig]

USER = {"role": "user", "content": "Say hi."}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def parsed(row: Any) -> PreferenceRow:
    found = parse_preference(json.dumps(row).encode(), 1)
    assert isinstance(found, PreferenceRow), found
    return found


def texts(row: PreferenceRow) -> tuple[list[str], str | None, str | None]:
    chat = row.chosen or row.rejected
    assert chat is not None
    better = row.chosen.messages[-1]["content"] if row.chosen else None
    worse = row.rejected.messages[-1]["content"] if row.rejected else None
    return [m["content"] for m in chat.messages[:-1]], better, worse


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Say hi.", "chosen": "Hi!", "rejected": "No."},
        {"question": "Say hi.", "chosen": "Hi!", "rejected": "No."},
        {"prompt": [USER], "chosen": [said("Hi!")], "rejected": [said("No.")]},
        {"prompt": [USER], "chosen": said("Hi!"), "rejected": said("No.")},
        {"prompt": "Say hi.", "chosen": [USER, said("Hi!")], "rejected": [USER, said("No.")]},
        {"chosen": [USER, said("Hi!")], "rejected": [USER, said("No.")]},
        {
            "input": {"messages": [USER]},
            "preferred_output": [said("Hi!")],
            "non_preferred_output": [said("No.")],
        },
        {"messages": [USER, said("Hi!")], "rejected": "No.", "rating": "down", "request_id": "r"},
        {"messages": [USER, said("Hi!")], "rejected_response": "No."},
    ],
)
def test_each_form_gives_the_same_pair(row: dict[str, Any]) -> None:
    assert texts(parsed(row)) == (["Say hi."], "Hi!", "No.")
    assert is_preference_row(row)


@pytest.mark.parametrize(
    ("row", "better", "worse"),
    [
        ({"prompt": "Say hi.", "completion": "Hi!", "label": True}, "Hi!", None),
        ({"prompt": "Say hi.", "completion": "No.", "label": False}, None, "No."),
        ({"messages": [USER, said("Hi!")], "rating": "up", "request_id": "r"}, "Hi!", None),
        ({"messages": [USER, said("Hi!")], "rating": "down", "request_id": "r"}, "Hi!", None),
    ],
)
def test_a_row_may_have_one_side(row: dict[str, Any], better: str | None, worse: str | None) -> None:
    assert texts(parsed(row)) == (["Say hi."], better, worse)


def test_system_and_tools_belong_to_both_sides() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    row = parsed(
        {"system": "Be kind.", "tools": tools, "prompt": "Say hi.", "chosen": call, "rejected": "No."}
    )
    for chat in (row.chosen, row.rejected):
        assert chat is not None and chat.messages[0]["content"] == "Be kind." and len(chat.tools) == 1


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "Say hi.", "chosen": "Hi!", "rejected": " Hi!"}, "the same answer"),
        ({"prompt": "Say hi.", "chosen": "Hi!"}, "`rejected` must be text"),
        ({"prompt": "Say hi.", "chosen": "Hi!", "rejected": None}, "`rejected` must be text"),
        ({"chosen": "Hi!", "rejected": "No."}, "`chosen` is an answer without a prompt"),
        (
            {"chosen": [USER, said("Hi!")], "rejected": [USER | {"content": "Be rude."}, said("No.")]},
            "answer different prompts",
        ),
        ({"messages": [USER, said("Hi!"), USER], "label": True}, "ends with a user message"),
        ({"prompt": "Say hi.", "completion": "Hi!", "label": "good"}, "`label` is 'good'"),
        ({"colour": "red"}, "this one has `colour`"),
        ([1], "is not an object"),
        ({"preferred_output": [said("a")], "non_preferred_output": [said("b")]}, "`input` must be an object"),
    ],
)
def test_what_prefers_nothing_is_refused(row: Any, says: str) -> None:
    error = parse_preference(json.dumps(row).encode(), 7)
    assert isinstance(error, DataError) and str(error).startswith("Line 7") and says in str(error)


def test_rows_of_one_side_are_joined_by_their_prompt() -> None:
    def row(line: int, prompt: str, answer: str, label: bool) -> PreferenceRow:
        found = parse_preference(
            json.dumps({"prompt": prompt, "completion": answer, "label": label}).encode(), line
        )
        assert isinstance(found, PreferenceRow)
        return found

    rows = [
        row(1, "a", "good", True), row(2, "b", "alone", True), row(3, "a", "bad", False),
        row(4, "a", "worse", False), row(5, "c", "lonely", False), row(6, "a", "bad", False),
    ]  # fmt: skip
    assert [texts(found) for found in match_rows(rows)] == [
        (["a"], "good", "bad"),
        (["a"], "good", "worse"),
        (["b"], "alone", None),
        (["c"], None, "lonely"),
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pairs_have_the_ids_of_the_chats(configure: Configure, tmp_path: Path) -> None:
    file = write(tmp_path / "pairs.jsonl", [{"prompt": "Say hi.", "chosen": "Hi!", "rejected": "No."}])
    config = configure(data=(), preferences=file, held_out_share=0.0)
    renderer = load_renderer(config)
    found = prepare(config, renderer).preferences
    assert found is not None
    [pair] = found.pairs
    chat = write(tmp_path / "chat.jsonl", [{"prompt": "Say hi.", "completion": "Hi!"}])
    [sample] = prepare(configure(data=chat, held_out_share=0.0), renderer).samples
    assert pair.samples()[0] == sample
    assert pair.rejected[-1] == renderer.end_id and renderer.tokenizer.decode(pair.rejected[:-1]) == "No."


def test_a_prompt_is_on_one_side_of_the_split_and_long_pairs_are_left_out(
    configure: Configure, tmp_path: Path
) -> None:
    rows = [{"prompt": f"Say {i % 20}.", "chosen": f"{i}!", "rejected": "No."} for i in range(40)]
    rows += [{"prompt": "Say all.", "chosen": "yes " * 600, "rejected": "No."}]
    rows += [{"prompt": f"Lonely {i}.", "completion": "bad", "label": False} for i in range(3)]
    file = write(tmp_path / "pairs.jsonl", rows)
    config = configure(data=(), preferences=file, held_out_share=0.3, max_length_tokens=300)
    data = prepare(config, load_renderer(config))
    found = data.preferences
    assert found is not None
    assert len(found.pairs) + len(found.held_out) == 40 and len(found.held_out) == len(data.held_out)
    assert not {p.prompt for p in found.pairs} & {p.prompt for p in found.held_out}
    assert (found.dropped, found.only_worse) == (1, 3)
    assert "3 worse answers have no better one" in " ".join(found.summary())
    assert data.counts()["pairs"] == len(found.pairs)


def test_nothing_to_train_on_is_said(configure: Configure, tmp_path: Path) -> None:
    file = write(tmp_path / "bad.jsonl", [{"prompt": "a", "completion": "b", "label": False}])
    config = configure(data=(), preferences=file)
    with pytest.raises(DataError, match="no pair is left to train on"):
        prepare(config, load_renderer(config))


def test_the_configuration_takes_chats_or_preferences(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of them"):
        configure(preferences=tmp_path / "x")
    with pytest.raises(ValueError, match="one of them"):
        configure(data=())
    with pytest.raises(ValueError, match="augment cannot be used"):
        configure(data=(), preferences=tmp_path / "x", augment=True)
    chosen = TrainingConfig(base=tmp_path, out=tmp_path, preferences=tmp_path / "x")
    assert (chosen.learning_rate, chosen.hyperparameters()["beta"]) == (5e-5, 0.1)
    assert "beta" not in configure().hyperparameters()
