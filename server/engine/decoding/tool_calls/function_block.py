"""The calls of Qwen3-Coder: `<tool_call><function=NAME><parameter=KEY>VALUE</parameter>…</function></tool_call>`.

Values are text; the tools' schemas say what else they are, and vLLM's own functions convert them.
Leans on (vLLM 0.32): vllm.parser.qwen3._qwen3_arg_converter, ParserEngine._coerce_dict, find_tool_properties.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any, Final

from vllm.parser.engine.parser_engine import ParserEngine
from vllm.parser.qwen3 import _qwen3_arg_converter
from vllm.tool_parsers.utils import find_tool_properties

from server.engine.decoding.tool_calls.calls import Call, read_arguments
from server.engine.decoding.tool_calls.forms import CLOSE, OPEN, Form
from server.engine.decoding.tool_calls.json_object import State

_BEGIN: Final = "<function="
_END: Final = "</function>"
_BLOCK = re.compile(rf"{_BEGIN}([^>]*)>(.*){_END}", re.DOTALL)
_PARAMETERS = re.compile("<parameter=[^>]*>(?:(?!<parameter=).)*?</parameter>", re.DOTALL)
_TAGS: Final = (OPEN, CLOSE, _BEGIN)
#: The model may leave out the tag before a function.
_TAG = re.compile(f"{OPEN}|{CLOSE}|(?={_BEGIN})")


class FunctionBlock:
    """One function, from its tag to the closing one."""

    def __init__(self) -> None:
        self.state = State.OPEN
        self._pieces: list[str] = []
        self._begun = False
        self._end = ""  # the last characters, which may begin the closing tag

    @property
    def text(self) -> str:
        """All that was taken so far."""
        return "".join(self._pieces)

    def feed(self, text: str) -> str:
        """Take what belongs to the function; returns the rest, which is empty while it is open."""
        if not self._begun:
            text = "".join([*self._pieces, text]).lstrip()
            self._pieces = []
            if not text.startswith(_BEGIN):
                if _BEGIN.startswith(text):
                    self._pieces = [text]
                    return ""
                self.state = State.BROKEN
                return text
            self._begun = True
        known = len(self._end)
        at = (self._end + text).find(_END)
        taken = len(text) if at < 0 else at + len(_END) - known
        self.state = State.OPEN if at < 0 else State.CLOSED
        self._pieces.append(text[:taken])
        self._end = (self._end + text)[-len(_END) + 1 :]
        return text[taken:]


def qwen_coder_form(tools: list[Any]) -> Form:
    """The form of Qwen3-Coder's calls of these tools."""
    return Form(
        body=FunctionBlock,
        read=partial(_read, tools),
        may_become_call=lambda text: True,  # a body that cannot become one is broken
        tags=_TAGS,
        tag=_TAG,
    )


def _read(tools: list[Any], text: str) -> Call | None:
    block = _BLOCK.fullmatch(text)
    if block is None or _PARAMETERS.sub("", block[2]).strip():
        return None  # half of a parameter or of another call: nobody knows what was meant
    name = block[1].strip()
    arguments = json.loads(_qwen3_arg_converter(block[2], False))
    properties = find_tool_properties(tools, name)
    if isinstance(properties, dict):
        ParserEngine._coerce_dict(arguments, properties)
    return read_arguments(name, json.dumps(arguments))
