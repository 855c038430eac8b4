"""Files as people have them: arrays, compressed, of another kind, damaged; each refusal says what to do."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from adapters.training.data.chat_template import Conversation
from adapters.training.data.reader import read_conversations, read_lines
from adapters.training.errors import DataError

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Héllo"}]}
LINE = json.dumps(CHAT)


def write(tmp_path: Path, data: bytes | str, name: str = "chats.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (f"{LINE}\n\n{LINE}\n", [1, 3]),
        (f"\ufeff{LINE}\r\n{LINE}", [1, 2]),
        (f"[{LINE}, {LINE}]", [1, 1]),
        (f"[\n{LINE},\n{LINE}\n]\n", [2, 3]),
        (json.dumps([CHAT, CHAT], indent=2), [2, 14]),
        (json.dumps(CHAT, indent=2) + "\n" + json.dumps(CHAT, indent=2), [1, 13]),
        (f" \n [ \n{LINE} ]", [3]),
    ],
    ids=["lines", "byte order mark", "array", "array over lines", "indented array", "indented", "spaces"],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_rows_are_read_with_the_line_they_begin_on(
    tmp_path: Path, data: str, lines: list[int], compressed: bool
) -> None:
    path = write(tmp_path, gzip.compress(data.encode()) if compressed else data)
    chats = read_conversations(path)
    assert [chat.line for chat in chats] == lines
    assert {chat.messages[1]["content"] for chat in chats} == {"Héllo"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "has no chats"),
        (b" \n\n", "has no chats"),
        (b"[]", "has no chats"),
        (b"PAR1....", "is a Parquet file. Convert it: python -c"),
        (b"ARROW1..", "is an Arrow file"),
        (b"PK\x03\x04..", "is a ZIP archive. Unpack it first"),
        (b"\x28\xb5\x2f\xfd..", "zstd -d chats.jsonl"),
        (b"BZh9..", "bunzip2 chats.jsonl"),
        (b"\xfd7zXZ..", "unxz chats.jsonl"),
        (LINE.encode("utf-16"), "is UTF-16 text. Convert it: iconv -f UTF-16"),
        (b"SQLite format 3\x00", "is a SQLite database"),
        (gzip.compress(LINE.encode() * 50)[:-20], "is damaged"),
        (gzip.compress(LINE.encode() * 50)[:30] + b"\xff" * 30, "is damaged"),
    ],
    # Compressed data have the time in them, and every process of a parallel run must name the tests alike.
    ids=lambda value: value if isinstance(value, str) else "data",
)
def test_a_file_of_another_kind_is_refused_with_what_converts_it(
    tmp_path: Path, data: bytes, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        read_conversations(write(tmp_path, data))


def test_a_table_or_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"table of text. Convert it: .*pandas.read_csv\(\"chats.csv\"\)"):
        read_conversations(write(tmp_path, "question,answer\nHi,Hello\n", "chats.csv"))
    with pytest.raises(DataError, match=r"YAML. Convert it: yq"):
        read_conversations(write(tmp_path, "- messages:\n", "chats.yaml"))
    with pytest.raises(DataError, match="is a folder"):
        read_conversations(tmp_path)
    with pytest.raises(DataError, match="is not a file"):
        read_conversations(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"\xe9", "Line 2 is not UTF-8 text: byte 1 of the line is 0xe9"),
        (b"{nope", "Line 2 is not JSON: Expecting property name"),
        (b"{'messages': []}", "Line 2 is not JSON"),
        (b'{"a": NaN}', "Line 2 is not JSON: it has NaN"),
        (b"[" * 100_000, "Line 2 is not JSON: it is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Line 2 is not JSON: it has a number that is too long"),
        (LINE.replace("Hi", r"\ud83d").encode(), "Line 2 has half a surrogate pair"),
        (b'"text"', "Line 2 is a text, not an object"),
        (b"null", "Line 2 is null, not an object"),
        (b'[{"role": "user", "content": "x"}]', r"Line 2 is a list of messages.*jq -c '\{messages: \.\}'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "data",
)
def test_one_bad_line_is_one_error_among_good_lines(tmp_path: Path, bad: bytes, says: str) -> None:
    path = write(tmp_path, b"\n".join([LINE.encode(), bad, LINE.encode()]))
    found = read_lines(path)
    assert [type(row) for row in found] == [Conversation, DataError, Conversation]
    with pytest.raises(DataError, match=says):
        raise found[1]  # type: ignore[misc]


def test_an_array_that_breaks_off_keeps_what_came_before(tmp_path: Path) -> None:
    good, error = read_lines(write(tmp_path, f"[\n{LINE},\n{LINE[:30]}"))
    assert isinstance(good, Conversation)
    assert "Line 3 is not JSON" in str(error) and "The rest of the file is not read" in str(error)
    good, error = read_lines(write(tmp_path, f"[\n{LINE}\n"))
    assert isinstance(good, Conversation) and "The JSON array is not closed" in str(error)
    good, error = read_lines(write(tmp_path, f"[{LINE}]\n[{LINE}]\n"))[:2]
    assert "is a list" in str(good) and "is a list" in str(error), "a list on each line"


@pytest.mark.parametrize("cut", [LINE[:13], LINE[:14], LINE[:30]])
def test_a_first_line_that_is_cut_hides_no_other(tmp_path: Path, cut: str) -> None:
    error, *chats = read_lines(write(tmp_path, f"{cut}\n{LINE}\n{LINE}\n"))
    assert "Line 1 is not JSON" in str(error) and [c.line for c in chats] == [2, 3]  # type: ignore[union-attr]


def test_the_refusal_of_a_file_names_its_first_bad_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "\n".join([LINE, *["{"] * 7]))
    with pytest.raises(DataError) as refused:
        read_conversations(path)
    text = str(refused.value)
    assert "chats.jsonl: 7 lines cannot be used:\n  Line 2 is not JSON" in text
    assert "Line 6" in text and "Line 7" not in text and "and 2 more" in text
    assert "--skip-unusable" in text
