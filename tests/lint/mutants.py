"""How many mutants of the last `make mutants` survived, by module; exit 1 above the limit (see docs/mutants.md)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

MAX_SURVIVORS_SHARE = 0.05
SURVIVED = (0, 33)  # mutmut's codes: all tests passed, and no test reaches it
NOT_RUN = (None,)


def main() -> None:
    """Print a table and the names of the survivors."""
    total = survived = 0
    for file in sorted(Path("mutants").rglob("*.py.meta")):
        codes = json.loads(file.read_text())["exit_code_by_key"]
        tried = {name: code for name, code in codes.items() if code not in NOT_RUN}
        survivors = [name for name, code in tried.items() if code in SURVIVED]
        total, survived = total + len(tried), survived + len(survivors)
        if tried:
            print(f"{file.relative_to('mutants').with_suffix('')}: {len(survivors)} of {len(tried)} survived")
            print("".join(f"  {name}\n" for name in survivors), end="")
    print(f"{survived} of {total} mutants survived ({survived / max(total, 1):.1%})")
    sys.exit(total == 0 or survived > MAX_SURVIVORS_SHARE * total)


if __name__ == "__main__":
    main()
