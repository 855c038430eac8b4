"""Writes the table of options as Markdown into docs/decoding.md.

`python -m sampling.options_table docs/decoding.md` regenerates the table in that document.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from sampling.endpoints import Endpoint
from sampling.options import OPTIONS, Option

BEGIN: Final = "<!-- options:begin -->"
END: Final = "<!-- options:end -->"

_HEAD = ("Option", "Endpoints", "Type", "Range", "Default", "Set by", "From", "Meaning")


def markdown() -> str:
    """The table, one line per option, without the markers around it."""
    rows = [_HEAD, tuple("---" for _ in _HEAD), *(_row(option) for option in OPTIONS)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def refresh(document: str) -> str:
    """The document with a regenerated table between its two markers.

    Raises:
        ValueError: the document lacks a marker.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The document needs the lines {BEGIN} and {END} around its table of options.")
    return f"{before}{BEGIN}\n{markdown()}{END}{after}"


def _row(option: Option) -> tuple[str, ...]:
    set_by = "any layer" if option.layered else "request"
    cells = (
        f"`{option.name}`",
        _endpoints(option),
        option.kind.type_name,
        option.kind.range_text,
        _default(option),
        set_by,
        option.source,
        option.meaning,
    )
    return tuple(cell.replace("|", "\\|") for cell in cells)


def _endpoints(option: Option) -> str:
    """The endpoints that support the option, each with its names there when they differ."""
    if option.endpoints == frozenset(Endpoint) and not option.spelled:
        return "all"
    cells = []
    for endpoint in Endpoint:
        names = option.names(endpoint)
        if names:
            differs = names != (option.name,)
            cells.append(endpoint.value + (f" (`{'`, `'.join(names)}`)" if differs else ""))
    return ", ".join(cells)


def _default(option: Option) -> str:
    if option.default is None:
        return "–"
    return f"`{json.dumps([] if option.default == () else option.default)}`"


def main(arguments: list[str]) -> None:
    """Regenerate the table in each given document; without an argument, print it."""
    if not arguments:
        print(markdown(), end="")
    for argument in arguments:
        document = Path(argument)
        document.write_text(refresh(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
