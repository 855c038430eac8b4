"""Why a grammar is refused. `server.engine.decoding.grammars.preparation` turns both into a 400 for the caller.

GrammarRefused
└── TooComplex    it may be correct, but costs too much time or memory
"""

from __future__ import annotations

import re

_MAX_REASON_CHARS = 300
#: How xgrammar begins its errors: a time, its own source file and the line.
_XGRAMMAR_PREFIX = re.compile(r"^\[[\d:]+\] \S+?:\d+: ")


class GrammarRefused(Exception):
    """No library enforces this schema, expression or grammar, or no answer can match it."""


class TooComplex(GrammarRefused):
    """The grammar costs more time or memory than the engine spends on one."""


def reason_of(error: Exception) -> str:
    """The first line of a library's error without its source file, and what a heading stands for."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = next((line for line in lines[1:] if line.startswith("error: ")), "")
    return f"{_XGRAMMAR_PREFIX.sub('', lines[0])} {text}".rstrip()[:_MAX_REASON_CHARS]
