"""Finds grammars that no finite answer matches: `root ::= "a" root`, or a schema that requires itself.

A model that follows such a grammar never comes to an end. In the terms of formal languages, the grammar's first rule
is not *productive*. xgrammar's conversion serves for the grammars of all libraries: it may drop a keyword of a
schema, but then more answers match, not fewer.

Leans on (xgrammar 0.2): Grammar.from_json_schema, from_regex, from_ebnf, from_lark, from_structural_tag,
serialize_json.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import xgrammar
from vllm.v1.structured_output.backend_types import StructuredOutputOptions

#: The kinds of expression in a serialised grammar that refer to others; all further ones match some finite text.
_RULE, _SEQUENCE, _CHOICES, _REPEAT = 4, 5, 6, 8
#: Each kind's conversions; a grammar is written in EBNF or in Lark's form.
_CONVERSIONS: Final[Mapping[StructuredOutputOptions, Sequence[Callable[[str], Any]]]] = {
    StructuredOutputOptions.JSON: (xgrammar.Grammar.from_json_schema,),
    StructuredOutputOptions.REGEX: (xgrammar.Grammar.from_regex,),
    StructuredOutputOptions.GRAMMAR: (xgrammar.Grammar.from_ebnf, xgrammar.Grammar.from_lark),
    StructuredOutputOptions.STRUCTURAL_TAG: (xgrammar.Grammar.from_structural_tag,),
}


def is_endless(kind: StructuredOutputOptions, spec: str) -> bool:
    """Whether no finite answer matches; False where xgrammar cannot convert the grammar."""
    for convert in _CONVERSIONS.get(kind, ()):
        with contextlib.suppress(RuntimeError, ValueError, TypeError):
            grammar = json.loads(convert(spec).serialize_json())
            bodies = [rule[1] for rule in grammar["rules"]]
            expressions = list(_expressions(grammar["grammar_expr_data"], grammar["grammar_expr_indptr"]))
            return grammar["root_rule_id"] not in _productive_rules(bodies, expressions)
    return False


def _expressions(data: Sequence[int], starts: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
    """Each expression's kind, and its arguments: of a sequence the expressions, of a reference the rule."""
    for at in starts:
        yield data[at], data[at + 2 : at + 2 + data[at + 1]]


def _productive_rules(bodies: Sequence[int], expressions: Sequence[tuple[int, Sequence[int]]]) -> set[int]:
    """The rules that match some finite text: found by repetition until no further one is found.

    Args:
        bodies: the expression of each rule.
        expressions: in the order of their numbers.
    """
    rules: set[int] = set()
    productive: set[int] = set()
    waiting = list(range(len(expressions)))
    while True:
        before = len(productive), len(rules)
        productive.update(at for at in waiting if _is_productive(*expressions[at], productive, rules))
        waiting = [at for at in waiting if at not in productive]
        rules.update(rule for rule, body in enumerate(bodies) if body in productive)
        if (len(productive), len(rules)) == before:
            return rules


def _is_productive(kind: int, arguments: Sequence[int], expressions: set[int], rules: set[int]) -> bool:
    """Whether an expression matches some finite text, given the expressions and rules that are known to."""
    if kind == _SEQUENCE:
        return all(each in expressions for each in arguments)
    if kind == _CHOICES:
        return any(each in expressions for each in arguments)
    if kind == _RULE:
        return arguments[0] in rules
    if kind == _REPEAT:  # of a rule, at least so many times
        return arguments[1] == 0 or arguments[0] in rules
    return True
