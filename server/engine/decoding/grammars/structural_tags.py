"""Structural tags: free text and literals around JSON of a schema, as vLLM makes them of the tools of a request.

vLLM accepts two forms. The present one nests formats, some of which hold a schema; the earlier one lists `structures`
with one schema each.
Leans on (vLLM 0.32): vllm.v1.structured_output.utils.grammar_is_likely_lark.
"""

from __future__ import annotations

from typing import Any, Final

import xgrammar
from vllm.v1.structured_output.utils import grammar_is_likely_lark

from server.engine.decoding.grammars.errors import GrammarRefused
from server.engine.decoding.grammars.json_schema.kept_keywords import keeps_schema
from server.engine.decoding.grammars.json_schema.normal_form import normal_form
from server.engine.decoding.grammars.json_schema.patterns import keeps_pattern

_SCHEMA: Final = "json_schema"
_GRAMMAR: Final = "grammar"


def normal_tag(tag: Any, max_whitespace_chars: int) -> Any:
    """A tag of either form in the present one, its schemas in normal form and with bounded white space.

    A schema's own bound of white space has precedence.

    Raises:
        GrammarRefused: it is no tag, or one of its schemas is not valid.
    """
    if not isinstance(tag, dict):
        raise GrammarRefused("a structural tag is an object")
    return _normal(_present_form(tag) if "structures" in tag else tag, max_whitespace_chars)


def keeps_tag(tag: Any) -> bool:
    """Whether xgrammar enforces all schemas and expressions of a tag in normal form.

    NOTE: with `excludes` it drops lengths, with `any_order` it drops required properties.
    """
    if isinstance(tag, list):
        return all(map(keeps_tag, tag))
    if not isinstance(tag, dict):
        return True
    if tag.get("type") == "regex":
        return keeps_pattern(tag["pattern"])
    if tag.get("type") != _SCHEMA:
        return all(map(keeps_tag, tag.values()))
    return not tag.get("excludes") and not tag.get("any_order") and keeps_schema(tag[_SCHEMA])


def _present_form(tag: dict[str, Any]) -> dict[str, Any]:
    """A tag of the earlier form in the present one."""
    try:
        tags = [
            {
                "type": "tag",
                "begin": item["begin"],
                "content": {"type": _SCHEMA, _SCHEMA: item["schema"]},
                "end": item["end"],
            }
            for item in tag["structures"]
        ]
        form = {"type": "triggered_tags", "triggers": tag["triggers"], "tags": tags}
    except (KeyError, TypeError) as error:
        raise GrammarRefused(
            "a structural tag has `triggers` and `structures` with `begin`, `schema` and `end`"
        ) from error
    return {"type": "structural_tag", "format": form}


def _normal(tag: Any, max_whitespace_chars: int) -> Any:
    if isinstance(tag, list):
        return [_normal(item, max_whitespace_chars) for item in tag]
    if not isinstance(tag, dict):
        return tag
    if tag.get("type") == _SCHEMA:
        bound = tag.get("max_whitespace_cnt") or max_whitespace_chars
        return {**tag, _SCHEMA: normal_form(tag.get(_SCHEMA, True)), "max_whitespace_cnt": bound}
    if tag.get("type") == _GRAMMAR and grammar_is_likely_lark(tag[_GRAMMAR]):
        return {**tag, _GRAMMAR: str(xgrammar.Grammar.from_lark(tag[_GRAMMAR]))}
    return {name: _normal(item, max_whitespace_chars) for name, item in tag.items()}
