"""How many mutants of the last `make mutants` survived, by module; exit 1 above the limit (see docs/mutants.md).

Leans on mutmut 3.8: mutants/<source file>.meta has the exit code of each mutant, None before it is tried.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

MAX_SURVIVORS_SHARE = 0.05
MAX_TIMEOUTS_SHARE = 0.05  # on a busy machine tests time out that would have passed
CAUGHT = {1, 3}  # pytest's codes: a test failed; an error stopped pytest
TIMED_OUT = {-24, 24, 36, 152, 255}  # mutmut's codes: it ran for 15 times as long as without the change
UNCAUGHT = {0: "all tests passed", 5: "no test reaches it", 33: "no test reaches it", None: "not tried"}


def report(codes_by_file: dict[str, dict[str, int | None]]) -> tuple[list[str], bool]:
    """The lines to print, and whether the bar is met: at most 5 % survive, and all of a file were tried in time."""
    lines, totals = [], Counter[str]()
    for file, codes in codes_by_file.items():
        if all(code is None for code in codes.values()):
            continue  # not asked for
        survivors = {name: code for name, code in codes.items() if code not in CAUGHT | TIMED_OUT}
        timeouts = sum(code in TIMED_OUT for code in codes.values())
        totals.update(mutants=len(codes), survivors=len(survivors), timeouts=timeouts)
        totals["not tried"] += sum(code is None for code in survivors.values())
        lines.append(f"{file}: {len(survivors)} of {len(codes)} not caught, {timeouts} timed out")
        lines += [f"  {name}: {UNCAUGHT.get(code, f'exit code {code}')}" for name, code in survivors.items()]
    share = totals["survivors"] / max(totals["mutants"], 1)
    lines.append(
        f"{totals['survivors']} of {totals['mutants']} mutants not caught ({share:.1%}), "
        f"{totals['timeouts']} timed out; at most {MAX_SURVIVORS_SHARE:.0%} may be"
    )
    if not totals["mutants"]:
        lines.append("No mutant was tried: `mutmut run` shows why.")
    is_busy = totals["timeouts"] > MAX_TIMEOUTS_SHARE * totals["mutants"]
    if is_busy:
        lines.append("So many timed out that the machine was too busy: there may be survivors among them.")
    met = totals["mutants"] > 0 and not totals["not tried"] and share <= MAX_SURVIVORS_SHARE and not is_busy
    return lines, met


def main() -> None:
    """Print the report of the folder `mutants`."""
    files = sorted(Path("mutants").rglob("*.py.meta"))
    names = [str(file.relative_to("mutants").with_suffix("")) for file in files]
    codes = [json.loads(file.read_text())["exit_code_by_key"] for file in files]
    lines, met = report(dict(zip(names, codes, strict=True)))
    print("\n".join(lines))
    sys.exit(not met)


if __name__ == "__main__":
    main()
