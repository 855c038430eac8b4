"""Writes a structural tag as a Lark grammar, in which guidance enforces its schemas.

vLLM gives structural tags to xgrammar only, which lacks keywords of JSON Schema. The formats here are those that vLLM
makes of tools whose calls are JSON, and what is near to them. The syntax is that of llguidance:
https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from server.engine.decoding.grammars.errors import GrammarRefused

Format = Mapping[str, Any]


def as_lark(tag: Any, json_options: Mapping[str, Any], special: Mapping[str, int]) -> str:
    """The grammar of a structural tag of the present form.

    Args:
        tag: the parsed tag.
        json_options: llguidance's `x-guidance` for each of its schemas.
        special: tokens that llguidance does not read as their text, and their ids.

    Raises:
        GrammarRefused: it has a format that is not among those of this module.
    """
    try:
        return _Grammar(json_options, special).of_tag(tag["format"])
    except (KeyError, TypeError, AttributeError) as error:
        raise GrammarRefused(f"a format of the structural tag is not complete: {error}") from error


class _Grammar:
    """One grammar while it is written: numbered rules, and the expression of each format."""

    def __init__(self, json_options: Mapping[str, Any], special: Mapping[str, int]) -> None:
        self._json_options = json_options
        self._special = special
        names = sorted(special, key=len, reverse=True)
        self._parts = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None
        self._rules: list[str] = []

    def of_tag(self, form: Format) -> str:
        """All rules, the first one last."""
        start = self._of(form)
        return "\n".join(["%llguidance {}", f"start: {start}", "TEXT: /(.|\\n)*/", *self._rules])

    def _rule(self, body: str, attribute: str = "") -> str:
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{attribute}: {body}")
        return name

    def _of(self, form: Format) -> str:
        """The expression of one format."""
        kind = form["type"]
        written = getattr(self, f"_{kind}", None) if kind in _KINDS else None
        if written is None:
            raise GrammarRefused(f"guidance does not enforce a structural tag with the format {kind!r}")
        return str(written(form))

    def _literal(self, text: Any) -> str:
        """A text; a special token in it may be that token or its text. Raises: GrammarRefused: it is a token id."""
        if not isinstance(text, str):
            raise GrammarRefused(
                "guidance does not enforce a structural tag that begins or ends with token ids"
            )
        parts = [part for part in self._parts.split(text) if part] if self._parts else [text]
        return " ".join(map(self._part, parts)) or _quoted("")

    def _part(self, text: str) -> str:
        token = self._special.get(text)
        return _quoted(text) if token is None else f"(<[{token}]> | {_quoted(text)})"

    def _json_schema(self, form: Format) -> str:
        if form.get("style", "json") != "json" or form.get("any_order") or form.get("excludes"):
            raise GrammarRefused("guidance enforces schemas of plain JSON only in a structural tag")
        schema = form["json_schema"]
        schema = dict(schema) if isinstance(schema, dict) else {} if schema else {"enum": []}
        return self._rule(f"%json {json.dumps(schema | {'x-guidance': dict(self._json_options)})}")

    def _const_string(self, form: Format) -> str:
        return self._literal(form["value"])

    def _sequence(self, form: Format) -> str:
        return self._rule(" ".join(map(self._of, form["elements"])))

    def _or(self, form: Format) -> str:
        return self._rule(" | ".join(map(self._of, form["elements"])))

    def _optional(self, form: Format) -> str:
        return f"({self._of(form['content'])})?"

    def _star(self, form: Format) -> str:
        return f"({self._of(form['content'])})*"

    def _plus(self, form: Format) -> str:
        return f"({self._of(form['content'])})+"

    def _tag(self, form: Format) -> str:
        return self._rule(f"{self._literal(form['begin'])} {self._rest(form)}")

    def _rest(self, form: Format) -> str:
        """Content and end of a tag."""
        ends = form["end"] if isinstance(form["end"], list) else [form["end"]]
        end = " | ".join(map(self._literal, ends))
        return f"{self._of(form['content'])} ({end})"

    def _tags_with_separator(self, form: Format) -> str:
        one = self._rule(" | ".join(map(self._of, form["tags"])))
        many = one
        if not form.get("stop_after_first"):
            many = self._rule(f"{one} ({self._literal(form['separator'])} {one})*")
        return many if form.get("at_least_one") else f"({many})?"

    def _triggered_tags(self, form: Format) -> str:
        """Text in which each trigger begins a tag; `lazy` ends the text at the first trigger."""
        if form.get("excludes"):
            raise GrammarRefused("guidance does not enforce `excludes` of a structural tag")
        calls, first = [], []
        for trigger in form["triggers"]:
            tags = [tag for tag in form["tags"] if tag["begin"].startswith(trigger)]
            rests = [f"{self._literal(tag['begin'][len(trigger) :])} {self._rest(tag)}" for tag in tags]
            if rests:
                rest = self._rule(" | ".join(rests))
                starts = [self._rule(f"TEXT {_quoted(trigger)}", "[lazy]")]
                if trigger in self._special:
                    starts.append(f"TEXT <[{self._special[trigger]}]>")
                calls.append(f"({' | '.join(starts)}) {rest}")
                first.append(f"{self._literal(trigger)} {rest}")
        call, at_once = self._rule(" | ".join(calls)), self._rule(" | ".join(first))
        if form.get("stop_after_first"):
            return at_once if form.get("at_least_one") else self._rule(f"{call} | TEXT")
        return self._rule(f"{at_once} ({call})* TEXT" if form.get("at_least_one") else f"({call})* TEXT")


#: The formats that `_Grammar` writes.
_KINDS = frozenset(
    {"json_schema", "const_string", "sequence", "or", "optional", "star", "plus", "tag", "tags_with_separator",
     "triggered_tags"}
)  # fmt: skip


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
