"""Regular expressions that xgrammar enforces as they are written.

xgrammar treats every expression as anchored at both ends, and then ignores `^` and `$` wherever they stand. Between
two characters an anchor can never match, so such an expression must not be given to xgrammar. It ignores lookarounds
as well.
"""

from __future__ import annotations

import re

#: An escaped character, or a character class: an anchor in either is a character.
_OPAQUE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
#: Escapes that xgrammar reads as letters, or that mean a position in the text.
_POSITIONS = re.compile(r"\\[AZzGbB]|\(\?<?[=!]")
#: A group with a count: an anchor in it may come again.
_REPEATED = re.compile(r"\)[*+?{]")


def keeps_pattern(pattern: str) -> bool:
    """Whether xgrammar ignores nothing that matters: each anchor stands at an end of an alternative."""
    if _POSITIONS.search(re.sub(r"\\\\", "", pattern)):
        return False
    plain = _OPAQUE.sub("x", pattern)
    repeats = _REPEATED.search(plain) is not None
    depth = 0
    for at, character in enumerate(plain):
        depth += (character == "(") - (character == ")")
        if character in "^$" and depth and repeats:
            return False
        if character == "^" and plain[:at].rstrip("(?:") and (depth or plain[at - 1] != "|"):
            return False
        if character == "$" and plain[at + 1 :].lstrip(")") and (depth or plain[at + 1] != "|"):
            return False
    return True
