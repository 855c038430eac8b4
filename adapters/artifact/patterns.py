"""`rank_pattern` and `alpha_pattern`: regular expressions for modules with a rank or an alpha of their own.

PEFT (`get_pattern_key`) and vLLM 0.32 (`PEFTHelper._match_pattern`) have the same rule: an expression must match a
suffix of the module's path that starts at a dot, and the first one that matches wins. Both would run the expressions
of a tenant without a limit of time. So they are resolved here, once and within a limit, and the engine gets one
expression of plain module names for each value.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import regex

from adapters.artifact.files import CONFIG, printable_value
from adapters.errors import ArtifactRefused

_ENTRIES_MAX = 2000
_LENGTH_MAX = 1000
_BUDGET_S = 2.0
_LINEAR = re.compile(r"[\w.\\^$-]*", re.ASCII)  # no repetition, no alternative: its time is its length
_LAYER = re.compile(r"(?P<before>.+\.)(?P<layer>\d+)(?P<after>\..+)")

Value = TypeVar("Value", bound=float)


def resolve(
    entries: object, name: str, check: Callable[[Any, str], Value], modules: Collection[str]
) -> dict[str, tuple[Value, ...]]:
    """The values of each module that an expression matches, by full path, in the order of the expressions.

    The first value holds. Blocks for at most two seconds, without the interpreter's lock where an expression may take
    long. Raises: ArtifactRefused: `check` refuses a value, or an expression cannot be read or takes too long.
    """
    entries = entries or {}
    if not isinstance(entries, Mapping):
        raise ArtifactRefused(f"{CONFIG} has {name} = {printable_value(entries)}; it must be an object.")
    if len(entries) > _ENTRIES_MAX:
        raise ArtifactRefused(
            f"{name} has {len(entries)} entries, above {_ENTRIES_MAX}; write fewer and more general patterns."
        )
    ends_at_s = time.monotonic() + _BUDGET_S
    resolved: dict[str, tuple[Value, ...]] = {}
    for pattern, value in entries.items():
        checked = check(value, f"{name} of {printable_value(pattern)}")
        matches = _matcher(pattern, name, ends_at_s)
        for module in modules:
            if matches(module):
                resolved[module] = (*resolved.get(module, ()), checked)
    return resolved


def as_patterns(values: Mapping[str, Value]) -> dict[str, Value]:
    """A `rank_pattern` or `alpha_pattern` that gives these modules these values, quickly in the engine."""
    groups: dict[Value, list[str]] = {}
    for module, value in sorted(values.items()):
        groups.setdefault(value, []).append(module)
    return {_expression(modules): value for value, modules in groups.items()}


def _expression(modules: Iterable[str]) -> str:
    """Matches exactly these modules. Layers share what is equal in their paths; ^ makes most attempts end at once."""
    layers: dict[tuple[str, str], list[str]] = {}
    others = []
    for module in modules:
        if found := _LAYER.fullmatch(module):
            layers.setdefault((found["before"], found["after"]), []).append(found["layer"])
        else:
            others.append(re.escape(module))
    for (before, after), numbers in layers.items():
        one_of = "|".join(sorted(numbers, key=int))
        others.append(f"{re.escape(before)}(?:{one_of}){re.escape(after)}")
    return "^(?:" + "|".join(sorted(others)) + ")"


def _matcher(pattern: str, name: str, ends_at_s: float) -> Callable[[str], bool]:
    if len(pattern) > _LENGTH_MAX:
        raise ArtifactRefused(
            f"A pattern of {name} has {len(pattern)} characters, above {_LENGTH_MAX}: {printable_value(pattern)}; "
            "write several shorter ones."
        )
    whole = rf"(.*\.)?({pattern})$"
    try:
        plain = re.compile(whole)
        bounded = regex.compile(whole)
    except (re.error, regex.error, OverflowError, RecursionError) as error:
        raise ArtifactRefused(
            f"{name} has the unreadable pattern {printable_value(pattern)}; save it again."
        ) from error

    def matches(module: str) -> bool:
        left_s = ends_at_s - time.monotonic()
        try:
            if left_s <= 0:
                raise TimeoutError
            if _LINEAR.fullmatch(pattern):
                return plain.match(module) is not None
            return bounded.match(module, timeout=left_s, concurrent=True) is not None
        except TimeoutError as error:
            raise ArtifactRefused(
                f"The patterns of {name} take longer than {_BUDGET_S:g} s to match ({printable_value(pattern)}); "
                "use plain module names there."
            ) from error

    return matches
