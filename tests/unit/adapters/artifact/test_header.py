"""The header is parsed entry by entry, so that a large one does not keep the interpreter's lock."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import pytest
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.artifact import files, header
from adapters.artifact.header import read_header
from adapters.errors import ArtifactRefused

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def tensors(count: int) -> dict[str, Any]:
    return {
        f"layers.{at}.lora_A.weight": {"dtype": "F32", "shape": [1], "data_offsets": [4 * at, 4 * at + 4]}
        for at in range(count)
    }


def read(text: bytes, data_bytes: int) -> Any:
    file = io.BytesIO(struct.pack("<Q", len(text)) + text)
    return read_header(file, 8 + len(text) + data_bytes)


@settings(max_examples=examples(30))
@given(st.dictionaries(st.text(), VALUES), st.sampled_from([None, 1]), st.booleans())
def test_entries_are_what_json_says(value: dict[str, Any], indent: int | None, is_ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=is_ascii)
    try:
        raw = f"{text} \n".encode()
    except UnicodeEncodeError:
        return
    assert dict(header._each(raw.decode())) == json.loads(text)


OTHER = '"m":{"dtype":"F32","shape":[],"data_offsets":[0,4]}'


@pytest.mark.parametrize(
    "text",
    ["{%s", "{%s,}", '{"a" %s}', "{a:1}", "{%s %s}", "{%s}x", "{%s,%s}", '{"a":{"b":1,"b":2}}', '{"a":NaN}',
     '{"a', '{"a":', '{"a":[}', '{"a":"\ud800"}', "{,}", '{"a":' + "[" * 100_000,
     '{"__metadata__":{},"__metadata__":{},%s}'],
)  # fmt: skip
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ArtifactRefused, match="not readable as JSON"):
        read(text.replace("%s", OTHER).encode(errors="surrogatepass"), 4)


def test_many_tensors_are_read_in_the_order_of_their_offsets() -> None:
    found = list(tensors(10_000).items())
    shuffled = dict(sorted(found, key=lambda item: hash(item[0])))
    read_back = read(json.dumps({"__metadata__": {"format": "pt"}, **shuffled}).encode(), 4 * 10_000)
    assert list(read_back) == [name for name, _ in found]


@pytest.mark.parametrize(
    "entry", ["[" + "1," * 6_000_000 + "1]", "{" + ",".join(f'"{n}":1' for n in range(900_000)) + "}"]
)
def test_no_entry_is_large(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One value of 12 MiB would be parsed in one piece; at most 256 KiB are."""
    asked: list[int] = []

    class Counting:
        def raw_decode(self, text: str) -> Any:
            asked.append(len(text))
            return files.DECODER.raw_decode(text)

    monkeypatch.setattr(header, "DECODER", Counting())
    with pytest.raises(ArtifactRefused, match="not readable as JSON"):
        read(f'{{"a":{entry}}}'.encode(), 0)
    assert max(asked) == 256 << 10


def test_a_file_of_many_values_is_refused() -> None:
    with pytest.raises(ArtifactRefused, match="200001 values; at most 100000"):
        files.parse_json_file(b'{"a":[' + b"1," * 200_000 + b"1]}", "adapter_config.json")
