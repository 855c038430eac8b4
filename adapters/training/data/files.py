"""The rows of a data file: JSON lines, a JSON array, or one of them compressed with gzip."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from adapters.training.data.formats import form_of
from adapters.training.data.formats.row import parse_row_json, reason, refuse_constant
from adapters.training.errors import DataError

_GZIP = b"\x1f\x8b"
_PANDAS = (
    'python -c \'import pandas; pandas.read_{kind}("FILE")'
    '.to_json("chats.jsonl", orient="records", lines=True)'
    "'"
)
_OTHER = {
    b"PAR1": "a Parquet file. Convert it: " + _PANDAS.format(kind="parquet"),
    b"ARROW1": "an Arrow file. Convert it: " + _PANDAS.format(kind="feather"),
    b"PK\x03\x04": "a ZIP archive. Unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd. Decompress it: zstd -d FILE",
    b"BZh": "compressed with bzip2. Decompress it: bunzip2 FILE",
    b"\xfd7zXZ": "compressed with xz. Decompress it: unxz FILE",
    b"\xff\xfe": "UTF-16 text. Convert it: iconv -f UTF-16 -t UTF-8 FILE > chats.jsonl",
    b"\xfe\xff": "UTF-16 text. Convert it: iconv -f UTF-16 -t UTF-8 FILE > chats.jsonl",
    b"SQLite format 3": "a SQLite database. Export the chats as JSON lines",
}  # fmt: skip
_HEAD_BYTES = 1 << 16
_JSON_SPACE = " \t\r\n"

#: A row that is not parsed yet, a row's value, or the error in the row.
RawRow = bytes | DataError | Any


def raw_rows(path: Path) -> Iterator[tuple[int, RawRow]]:
    """Every row with the number of the line on which it begins; ``parse_row`` gives its value.

    Raises:
        DataError: the file is missing, of another kind, or damaged.
    """
    if path.is_dir():
        raise DataError(f"{path.name} is a folder. Give a file with one chat per line.")
    if not path.is_file():
        raise DataError(f"{path.name} is not a file. Give a JSONL file with one chat per line.")
    _check_kind(path)
    try:
        with _opened(path) as file:
            head = file.read(_HEAD_BYTES)
        with _opened(path) as file:
            yield from _split(file.read()) if _spans_lines(head) else _lines(file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path.name} is damaged: {error}. Copy or compress it again.") from error
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror or error}.") from error


def parse_row(raw: RawRow, line: int) -> Any:
    """The value of a row.

    Raises:
        DataError: it is not JSON in UTF-8.
    """
    if isinstance(raw, DataError):
        raise raw
    if not isinstance(raw, bytes):
        return raw
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"Line {line} is not UTF-8 text: byte {error.start + 1} of the line is {raw[error.start]:#04x}. "
            "Save the file as UTF-8."
        ) from error
    try:
        value = parse_row_json(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"Line {line} is not JSON: {reason(error)}.") from error
    if "\\ud" in text.lower():
        _check_surrogates(value, line)
    return value


def _check_kind(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(16)
    for magic, what in _OTHER.items():
        if head.startswith(magic):
            raise DataError(f"{path.name} is {what.replace('FILE', path.name)}.")
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv") and head.lstrip()[:1] not in (b"{", b"["):
        raise DataError(
            f"{path.name} is a table of text. Convert it: {_PANDAS.format(kind='csv').replace('FILE', path.name)}."
        )
    if kind in (".yaml", ".yml") and head.lstrip()[:1] not in (b"{", b"["):
        raise DataError(f"{path.name} is YAML. Convert it: yq -o=json -I=0 '.[]' {path.name} > chats.jsonl.")


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP
    return gzip.open(path, "rb") if compressed else path.open("rb")  # type: ignore[return-value]


def _spans_lines(head: bytes) -> bool:
    """Whether the file is one array, or objects that go over several lines, and not one row per line."""
    lines = head.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n")
    first = lines[0].strip()
    if first[:1] not in (b"[", b"{"):
        return False
    if len(lines) == 1:  # one line, or its beginning
        return first[:1] == b"["
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        # An object whose first line ends like this goes on in the next one; any other is a broken line. So is this
        # one if rows follow on lines of their own.
        goes_on = first[-1:] in (b"[", b"{", b",", b":") and not any(_is_row(line) for line in lines[1:-1])
        return goes_on or first[:1] == b"["
    return isinstance(value, list) and not any(line.strip() for line in lines[1:])


def _is_row(line: bytes) -> bool:
    try:
        return line.startswith(b"{") and form_of(json.loads(line)) is not None
    except (ValueError, RecursionError):
        return False


def _lines(file: IO[bytes]) -> Iterator[tuple[int, RawRow]]:
    for number, line in enumerate(file, start=1):
        row = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if row.strip():
            yield number, row


def _split(data: bytes) -> Iterator[tuple[int, RawRow]]:
    """The elements of an array, or objects one after the other."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        yield line, DataError(f"Line {line} is not UTF-8 text. Save the file as UTF-8.")
        return
    decoder = json.JSONDecoder(parse_constant=refuse_constant)
    array = text.lstrip().startswith("[")
    separators = _JSON_SPACE + ("," if array else "")
    at, line, counted = text.find("[") + 1 if array else 0, 1, 0
    while True:
        while at < len(text) and text[at] in separators:
            at += 1
        if at >= len(text):
            if array:
                yield line, DataError("The JSON array is not closed: the file ends before its `]`.")
            return
        line, counted = line + text.count("\n", counted, at), at
        if array and text[at] == "]":
            if text[at + 1 :].strip():
                yield line, DataError(f"Line {line}: there is more text after the JSON array.")
            return
        try:
            value, at = decoder.raw_decode(text, at)
            _check_surrogates(value, line)
        except DataError as error:
            yield line, error
            continue
        except (ValueError, RecursionError) as error:
            yield (
                line,
                DataError(f"Line {line} is not JSON: {_place(error)}. The rest of the file is not read."),
            )
            return
        yield line, value


def _place(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    return reason(error)


def _check_surrogates(value: Any, line: int) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"Line {line} has half a surrogate pair ({error.object[error.start]!a}), which is no character."
        ) from error
