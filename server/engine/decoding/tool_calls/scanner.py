"""Finds the tool calls of an answer that arrives in pieces; how it is cut into pieces makes no difference.

A call is found when its JSON object is complete: half a call is never one. It is written between tags, as the
templates of Qwen and Hermes show the model; a forced call may also be bare JSON (`ForcedScanner`).
"""

from __future__ import annotations

import re
from typing import Final

from server.engine.decoding.tool_calls.calls import Call, Found, read_arguments, read_call
from server.engine.decoding.tool_calls.forms import CLOSE, HERMES, Body, Form
from server.engine.decoding.tool_calls.json_object import JsonObject, State
from server.engine.decoding.tool_calls.thoughts import stretches, tag_beginning

#: The last character of a tag, however often it stands there: without it, what stays is none.
_TAG_END = re.compile("(</?tool_call)>+")
#: Characters of the beginning of a tag that an answer which ends there does not show; a shorter one may be any tag.
_HALF_TAG: Final = len("<tool")


class TaggedScanner:
    """Finds calls between tags, such as `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.

    Text before the first call is content. Text after it is kept until the answer ends, because content stands before
    calls. Tags are never content; what stands between them is, if it is no call.
    """

    def __init__(self, form: Form = HERMES, *, keep_calls: bool = True) -> None:
        """
        Args:
            form: how the model writes a call.
            keep_calls: otherwise calls are dropped, and the text after them is content, too.
        """
        self._form = form
        self._keep_calls = keep_calls
        self._object: Body | None = None
        self._held = ""  # the beginning of a tag, perhaps
        self._after_call = False
        self._any_call = False
        self._blank: list[str] | None = []  # white space before all other content; None after it
        self._sent = ""  # the end of the content
        self._content: list[str] = []
        self._after: list[list[str]] = []  # the text after each call
        self._calls: list[Call] = []

    @property
    def in_call(self) -> bool:
        """Whether the text so far ends within a call, or what may become one."""
        return self._object is not None

    def feed(self, text: str) -> Found:
        """Take the next piece."""
        for rest in stretches(text):
            while rest:
                rest = self._in_object(rest) if self._object else self._in_text(rest)
        return self._taken()

    def finish(self) -> Found:
        """The rest, when no piece follows: what is half a call or half a tag then is dropped."""
        if self._object is not None:
            if self._form.may_become_call(self._object.text):
                self._any_call = True
            else:
                self._add(self._object.text)
        elif len(self._held) < _HALF_TAG and not self._directly_after_call():
            self._add(self._held)
        if self._blank and not self._any_call:
            self._content += self._blank
        found = self._taken()
        return Found(found.content, found.calls, self._text_after_calls())

    def _directly_after_call(self) -> bool:
        """Whether only white space follows a call; then "<" is the beginning of a tag."""
        return self._after_call or (bool(self._after) and not "".join(self._after[-1]).strip())

    def _text_after_calls(self) -> str:
        """The text after each call; it begins a line where the content has not ended one."""
        text = "\n".join(filter(None, ("".join(pieces).strip() for pieces in self._after)))
        if text and self._sent and not self._sent[-1].isspace():
            text = f"\n{text}"
        return _TAG_END.sub(r"\1", self._sent + text)[len(self._sent) :]

    def _in_text(self, text: str) -> str:
        text, self._held = self._held + text, ""
        if self._after_call:
            text = text.lstrip()
            if CLOSE.startswith(text) and text != CLOSE:  # also the empty text
                self._held = text
                return ""
            self._after_call = False
            text = text.removeprefix(CLOSE)
        if tag := self._form.tag.search(text):
            self._add(text[: tag.start()])
            self._object = None if tag[0] == CLOSE else self._form.body()
            return text[tag.end() :]
        end = len(text) - tag_beginning(text, self._form.tags)
        self._add(text[:end])
        self._held = text[end:]
        return ""

    def _in_object(self, text: str) -> str:
        assert self._object is not None
        rest = self._object.feed(text)
        if self._object.state is State.OPEN:
            return rest
        body, self._object = self._object, None
        call = self._form.read(body.text) if body.state is State.CLOSED else None
        if call is None:
            self._add(body.text)
        else:
            self._after_call = self._any_call = True
            if self._keep_calls:
                self._calls.append(call)
                self._after.append([])
        return rest

    def _add(self, text: str) -> None:
        """Add content, or text after a call."""
        if self._keep_calls and self._any_call:
            self._after[-1].append(text)
            return
        if self._blank is not None:
            if not text.strip():
                self._blank.append(text)
                return
            text, self._blank = "".join([*self._blank, text]), None
        known = len(self._sent)
        whole = _TAG_END.sub(r"\1", self._sent + text)  # pieces of tags must not join to one
        self._content.append(whole[known:])
        self._sent = whole[-len(CLOSE) + 1 :]

    def _taken(self) -> Found:
        found = Found("".join(self._content), self._calls)
        self._content, self._calls = [], []
        return found


class ForcedScanner:
    """Finds the calls of an answer that must be calls in bare JSON: one object, or a list of objects.

    vLLM forces them so where it has no grammar for tags: the arguments alone for one named function, otherwise
    `[{"name": …, "parameters": {…}}]`.
    """

    in_call = True

    def __init__(self, name: str | None) -> None:
        """
        Args:
            name: the only function that may be called; None: any.
        """
        self._name = name
        self._object: JsonObject | None = None
        self._done = False

    def feed(self, text: str) -> Found:
        """Take the next piece."""
        calls = []
        for rest in stretches(text):
            while rest and not self._done:
                if self._object is None:
                    rest = rest[at:] if (at := rest.find("{")) >= 0 else ""
                    self._object = JsonObject() if rest else None
                    continue
                rest = self._object.feed(rest)
                if self._object.state is State.CLOSED:
                    calls += self._read(self._object.text)
                if self._object.state is not State.OPEN:
                    self._object = None
        return Found(calls=calls)

    def finish(self) -> Found:
        """Half a call is none."""
        return Found()

    def _read(self, text: str) -> list[Call]:
        self._done = self._name is not None
        call = read_call(text) if self._name is None else read_arguments(self._name, text)
        return [call] if call else []
