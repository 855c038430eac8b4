"""What is a call and what is text, wherever the text is cut into pieces."""

from __future__ import annotations

import gc
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionToolsParam

from server.engine.decoding.tool_calls.calls import Call, Found
from server.engine.decoding.tool_calls.function_block import qwen_coder_form
from server.engine.decoding.tool_calls.scanner import ForcedScanner, TaggedScanner
from server.engine.decoding.tool_calls.thoughts import ThoughtScanner

F = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
CALL = Call("f", '{"x": 1}')


def cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def read(scanner: TaggedScanner | ForcedScanner, *pieces: str) -> Found:
    found = [scanner.feed(piece) for piece in pieces]
    assert not any(each.after for each in found), "text after calls waits for the end"
    found.append(scanner.finish())
    content = "".join(each.content for each in found)
    return Found(content, [call for each in found for call in each.calls], found[-1].after)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("", "", []),
        ("Hello!", "Hello!", []),
        (" \n", " \n", []),
        (F, "", [CALL]),
        (f"\n\n{F}\n", "", [CALL]),
        (f"I look.\n{F}", "I look.\n", [CALL]),
        (f"{F}{F}\n\n{F}", "", [CALL] * 3),
        ('<tool_call>{"name":"f"}</tool_call>', "", [Call("f", "{}")]),
        ('<tool_call>{"name":"f","arguments":"{\\"x\\": 1}"}</tool_call>', "", [CALL]),
        ('<tool_call>{"name":"f","parameters":{"x":1}}</tool_call>', "", [CALL]),
        # The tags are text within a JSON string.
        (
            '<tool_call>{"name":"f","arguments":{"x":"</tool_call><tool_call>{"}}',
            "",
            [Call("f", '{"x": "</tool_call><tool_call>{"}')],
        ),
        # UTF-8 cannot encode half of a surrogate pair.
        ('<tool_call>{"name":"f","arguments":{"x":"\\ud83d"}}', "", [Call("f", '{"x": "\ufffd"}')]),
        # Cut: the object is complete without the tag that closes it, and half an object is nothing.
        ('<tool_call>\n{"name": "f", "arguments": {"x": 1}}', "", [CALL]),
        ('a<tool_call>\n{"name": "f", "arguments": {"x": 1}', "a", []),
        ('a<tool_call>\n{"na', "a", []),
        ("a<tool_call>\n", "a", []),
        ("a<tool_call", "a", []),
        ("a<tool", "a", []),
        (f"{F}<tool_call>" + '{"name":', "", [CALL]),
        ("a < b <", "a < b <", []),
        ("<table><t", "<table><t", []),
        # No calls: the text stays, the tags do not.
        ("Write <tool_call> before it.", "Write  before it.", []),
        ("<tool_call>\n<tool_call>\n{}", "\n\n{}", []),
        ('<tool_call>["f"]</tool_call>!', '["f"]!', []),
        ('<tool_call>{"name": <name>}</tool_call>', '{"name": <name>}', []),
        ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>', '{"name": "f", "arguments": [1]}', []),
        ('<tool_call>{"name": 1, "arguments": {}}</tool_call>', '{"name": 1, "arguments": {}}', []),
        (
            '<tool_call>{"name": "f", "arguments": {"x": 1e999}}',
            '{"name": "f", "arguments": {"x": 1e999}}',
            [],
        ),
        (f'<tool_call>{{"name": "f\n{F}', '{"name": "f\n', [CALL]),
        (f'<tool_call>{{"name": "f"</tool_call>{F}', '{"name": "f"', [CALL]),
        ("</tool_call>x", "x", []),
        ("a<tool_<tool_call>call>b", "a<tool_callb", []),
    ],
)
def test_calls_and_content(text: str, content: str, calls: list[Call]) -> None:
    for size in (1, 2, 3, 7, len(text) + 1):
        pieces = cut(text, size)
        assert read(TaggedScanner(), *pieces) == Found(content, calls), size


@pytest.mark.parametrize(
    ("text", "content", "after"),
    [
        (f"a{F} between {F} after", "a", "\nbetween\nafter"),
        (f"a\n{F}\n\nb{F}\nc\n", "a\n", "b\nc"),
        (f"{F}b", "", "b"),
        (f"{F}\n\n", "", ""),
        (f"{F}\n<", "", ""),
        (f"{F}b <", "", "b <"),
        (F.removesuffix("</tool_call>") + "b", "", "b"),
        (f"{F}b<tool_call>" + '{"name":', "", "b"),
        (f"{F}<tool_call>b</tool_call>c", "", "bc"),
        (f"{F}b<tool_<tool_call>call>c", "", "b<tool_callc"),
        (f"a<tool_{F}call>", "a<tool_", "\ncall>"),
    ],
)
def test_text_after_calls(text: str, content: str, after: str) -> None:
    for size in (1, 2, 3, 7, len(text) + 1):
        found = read(TaggedScanner(), *cut(text, size))
        assert (found.content, found.after) == (content, after), size


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (F, ""),
        (f"\n{F}\n", ""),
        (f"a{F}\nb{F} c", "a\nb c"),
        (f"a{F}<tool_call>" + '{"name":', "a"),
        ("a <tool_call> b", "a  b"),
    ],
)
def test_no_calls(text: str, content: str) -> None:
    for size in (1, 4, len(text)):
        pieces = cut(text, size)
        assert read(TaggedScanner(keep_calls=False), *pieces) == Found(content, [])


@pytest.mark.parametrize(
    ("name", "text", "calls"),
    [
        (None, '[{"name": "f", "parameters": {"x": 1}}]', [CALL]),
        (None, '[{"name": "f", "parameters": {"x": 1}}, {"name": "g", "parameters": {"y"', [CALL]),
        (None, "[]", []),
        ("f", '{"x": 1}', [CALL]),
        ("f", '{"x": 1', []),
        ("f", '{"x": 1} {"x": 2}', [CALL]),
    ],
)
def test_forced_calls(name: str | None, text: str, calls: list[Call]) -> None:
    for size in (1, 4, len(text)):
        pieces = cut(text, size)
        assert read(ForcedScanner(name), *pieces) == Found("", calls)


NUMBER = {"type": "object", "properties": {"x": {"type": "integer"}}}
CODER = qwen_coder_form(
    [ChatCompletionToolsParam.model_validate({"function": {"name": "f", "parameters": NUMBER}})]
)
G = "<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (G, "", [CALL]),
        (f"I look.\n{G}\n{G}", "I look.\n", [CALL, CALL]),
        (G.removesuffix("\n</tool_call>"), "", [CALL]),
        (G.removeprefix("<tool_call>\n"), "", [CALL]),
        (f"a{G[:-14]}", "a", []),
        (f"a{G[:20]}", "a", []),
        ("a <func", "a ", []),
        ("a <fun", "a <fun", []),
        ("<tool_call> is a tag", "is a tag", []),
        ("<tool_call><function=>1</function>", "<function=>1</function>", []),
        ("<function=g><parameter=x>1</parameter></function>", "", [Call("g", '{"x": "1"}')]),
    ],
)
def test_calls_of_qwen_coder(text: str, content: str, calls: list[Call]) -> None:
    for size in (1, 2, 3, 7, len(text) + 1):
        assert read(TaggedScanner(CODER), *cut(text, size)) == Found(content, calls), size


parts = st.sampled_from(
    [
        F,
        "<tool_call>",
        "</tool_call>",
        "<tool_",
        "call>",
        '{"name": "f"',
        '"arguments": {',
        "}",
        '"',
        "\\",
        "\n",
    ]
) | st.text(alphabet='<>/{}[]"\\, :1tn', max_size=6)


@given(st.lists(parts, max_size=12).map("".join), st.lists(st.integers(1, 8)), st.booleans())
def test_pieces_make_no_difference(text: str, sizes: list[int], keep_calls: bool) -> None:
    pieces, at = [], 0
    for size in itertools.chain(sizes, itertools.repeat(1)):
        if at >= len(text):
            break
        pieces.append(text[at : at + size])
        at += size
    whole = read(TaggedScanner(keep_calls=keep_calls), text)
    assert read(TaggedScanner(keep_calls=keep_calls), *pieces) == whole
    said = whole.content + whole.after
    assert "<tool_call>" not in said and "</tool_call>" not in said
    assert all(isinstance(json.loads(call.arguments), dict) for call in whole.calls)


@pytest.fixture
def _no_collection() -> Iterator[None]:
    """A full garbage collection takes as long as what is measured, and has nothing to do with it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.slow
@pytest.mark.usefixtures("_no_collection")
@pytest.mark.parametrize(
    "unit",
    [
        "<tool_call>",
        '<tool_call>{"',
        '<tool_call>{"a":',
        " ",
        "<tool_",
        '<tool_call>{"a":[[[',
        F,
        '"{',
        "<tool_call>{",
    ],
)
def test_the_time_grows_with_the_text(unit: str) -> None:
    """No text of a model holds the event loop: twice the text takes about twice as long, whole or in pieces."""
    for size in (3, 1_000_000):
        times = []
        for length in (30_000, 120_000):
            pieces = cut(unit * (length // len(unit)), size)
            begun = time.process_time()
            read(TaggedScanner(), *pieces)
            times.append(time.process_time() - begun)
        assert times[1] < 8 * times[0] + 0.05


@pytest.mark.slow
@pytest.mark.usefixtures("_no_collection")
@pytest.mark.parametrize(
    ("scanner", "unit"),
    [
        (lambda: ForcedScanner(None), "{;"),
        (lambda: ForcedScanner(None), '{"name":"f"}'),
        (lambda: ThoughtScanner("<think>", "</think>"), "<think>"),
    ],
    ids=["broken objects", "objects", "thoughts"],
)
def test_the_time_of_other_scanners_grows_with_the_text(scanner: Callable[[], Any], unit: str) -> None:
    times = []
    for length in (50_000, 400_000):
        text = unit * (length // len(unit))
        begun = time.process_time()
        scanner().feed(text)
        times.append(time.process_time() - begun)
    assert times[1] < 16 * times[0] + 0.05


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("<think>Hm</think>Yes", "Hm", "Yes"),
        ("Hm</think>Yes</think>", "Hm", "Yes</think>"),
        ("Hm", "Hm", ""),
        ("<think>Hm</thi", "Hm</thi", ""),
        ("Hm<tool_call>x", "Hm", "<tool_call>x"),
        ("", "", ""),
    ],
)
def test_thoughts(text: str, thoughts: str, answer: str) -> None:
    for size in (1, 3, len(text) + 1):
        scanner = ThoughtScanner("<think>", "</think>", ["<tool_call>"])
        found = [scanner.feed(piece) for piece in cut(text, size)]
        assert "".join(each for each, _ in found) + scanner.finish() == thoughts
        assert "".join(each for _, each in found) == answer
