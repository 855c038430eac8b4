"""The condition of a promotion: `calls_right >= @current - 0.01 and loss < @current`.

It has comparisons of one figure of the new version with a number or with the same figure of the current version
(`@current`), joined by `and`, `or` and `not`; numbers may be added, subtracted, multiplied and divided. It is read by
Python's own parser and computed here, node by node: nothing else of Python is known.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.promotion.errors import BadCondition

#: The figures of an evaluation that a condition may name, and what they are.
FIGURES: Mapping[str, str] = {
    "exact": "share of answers that are exactly the expected ones",
    "calls_right": "share of the expected function calls that are right",
    "json_valid": "share of valid JSON where JSON is expected",
    "stops": "share of answers that end by themselves",
    "repeats": "share of answers that repeat themselves",
    "loss": "nats per token of the expected answers",
    "perplexity": "exp(loss)",
    "answer_tokens": "mean length of the answers",
    "win_rate": "share of answers that the judge prefers to the expected ones; a tie is half of one",
    "turns": "number of answers",
}
MAX_CHARACTERS = 500
_CURRENT, _CURRENT_NAME = re.compile(r"@current\b"), "__current__"
_COMPARISONS: Mapping[type[ast.cmpop], tuple[str, Callable[[float, float], bool]]] = {
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
}
_SUMS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_EXAMPLE = "An example: calls_right >= @current - 0.01 and loss < @current."


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether figures meet a condition; `reasons`: the comparisons because of which they do not, in words."""

    passes: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Figures:
    new: Mapping[str, Any]
    current: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that can be computed; `parse` makes it."""

    text: str
    _tree: ast.expr = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition. Raises: BadCondition."""
        text = " ".join(text.split())
        if len(text) > MAX_CHARACTERS:
            raise BadCondition(f"The condition has {len(text)} characters; {MAX_CHARACTERS} are allowed.")
        if "__" in text:
            raise BadCondition(f"The condition must not contain '__'. {_EXAMPLE}")
        try:
            tree = ast.parse(_CURRENT.sub(f" {_CURRENT_NAME} ", text).strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise BadCondition(f"The condition {text!r} cannot be read. {_EXAMPLE}") from error
        _check(tree)
        return cls(text, tree)

    @property
    def needs_current(self) -> bool:
        """Whether it compares with the current version."""
        return any(isinstance(node, ast.Name) and node.id == _CURRENT_NAME for node in ast.walk(self._tree))

    @property
    def figures(self) -> tuple[str, ...]:
        """The figures that it names."""
        names = {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)}
        return tuple(name for name in FIGURES if name in names)

    def judge(self, new: Mapping[str, Any], current: Mapping[str, Any] | None = None) -> Verdict:
        """Compute it on the figures of the new version and, if `needs_current`, of the current one."""
        passes, reasons = _judge(self._tree, _Figures(new, current))
        return Verdict(passes, () if passes else tuple(reasons))


def _check(node: ast.expr) -> None:
    """Refuse everything but conditions. Raises: BadCondition."""
    match node:
        case ast.BoolOp(values=values):
            for value in values:
                _check(value)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            _check(operand)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            if not all(type(op) in _COMPARISONS for op in ops):
                raise BadCondition(f"{_text(node)}: only <, <=, > and >= compare. {_EXAMPLE}")
            sides = [left, *comparators]
            for side in sides:
                _check_number(side)
            if len(_figures_in(node)) != 1:
                raise BadCondition(f"{_text(node)}: a comparison must name one figure: {', '.join(FIGURES)}.")
        case _:
            raise BadCondition(f"{_text(node)} is no comparison. {_EXAMPLE}")


def _check_number(node: ast.expr) -> None:
    """Raises: BadCondition."""
    match node:
        case ast.Constant(value=int() | float() as value) if type(value) is not bool and math.isfinite(value):
            return
        case ast.Name(id=name) if name in FIGURES or name == _CURRENT_NAME:
            return
        case ast.Name(id=name):
            raise BadCondition(f"There is no figure {name!r}; the figures are {', '.join(FIGURES)}.")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            _check_number(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _SUMS:
            _check_number(left)
            _check_number(right)
        case _:
            raise BadCondition(f"{_text(node)} is not allowed in a condition. {_EXAMPLE}")


def _judge(node: ast.expr, figures: _Figures) -> tuple[bool, list[str]]:
    """Whether a part holds, and the comparisons because of which it does not."""
    match node:
        case ast.BoolOp(op=op, values=values):
            judged = [_judge(value, figures) for value in values]
            holds = (all if isinstance(op, ast.And) else any)(holds for holds, _ in judged)
            return holds, [reason for held, reasons in judged if not held for reason in reasons]
        case ast.UnaryOp(operand=operand):
            holds, _ = _judge(operand, figures)
            return not holds, [f"{_text(operand)} holds"] if holds else []
        case ast.Compare():
            return _compare(node, figures)
    raise AssertionError(node)  # `_check` has refused it


def _compare(node: ast.Compare, figures: _Figures) -> tuple[bool, list[str]]:
    (name,) = _figures_in(node)
    value = figures.new.get(name)
    current = None if figures.current is None else figures.current.get(name)
    if value is None:
        return False, [f"{name} was not measured: {_why_not(name, figures.new)}"]
    if current is None and _names_current(node):
        return False, [f"{name} of @current is not known"]
    sides = [node.left, *node.comparators]
    try:
        values = [_value(side, float(value), float(current or 0.0)) for side in sides]
    except (ZeroDivisionError, OverflowError):
        return False, [f"{_text(node)} divides by zero"]
    pairs = zip(node.ops, values, values[1:], strict=False)
    if all(_COMPARISONS[type(op)][1](one, other) for op, one, other in pairs):
        return True, []
    limits = [
        f"{_text(side)} is {number:g}"
        for side, number in zip(sides, values, strict=True)
        if _names_current(side)
    ]
    told = f", and {', '.join(limits)}" if limits else ""
    return False, [f"{name} is {value:g}{told}: {_text(node)} does not hold"]


def _why_not(name: str, figures: Mapping[str, Any]) -> str:
    if name != "win_rate":
        return "the chats have no turn for it"
    return str(figures.get("not_judged") or "the evaluation had no judge").rstrip(".")


def _value(node: ast.expr, new: float, current: float) -> float:
    match node:
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]
        case ast.Name(id=name):
            return current if name == _CURRENT_NAME else new
        case ast.UnaryOp(operand=operand):
            return -_value(operand, new, current)
        case ast.BinOp(left=left, op=op, right=right):
            return _SUMS[type(op)](_value(left, new, current), _value(right, new, current))
    raise AssertionError(node)  # `_check` has refused it


def _figures_in(node: ast.expr) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} & FIGURES.keys()


def _names_current(node: ast.expr) -> bool:
    return any(isinstance(each, ast.Name) and each.id == _CURRENT_NAME for each in ast.walk(node))


def _text(node: ast.expr) -> str:
    return ast.unparse(node).replace(_CURRENT_NAME, "@current")
