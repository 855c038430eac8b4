"""The sizes that CONTRIBUTING.md promises, of product code; `make lint` runs it. Exit 1 with what is too large."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_ENTRIES = 250, 40, 15
PACKAGES = ("server", "adapters", "sampling", "benchmarks", "demo")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def too_large() -> list[str]:
    """One line for each file, function and folder above its limit; a migration's functions are its tables."""
    found = []
    for file in sorted(file for package in PACKAGES for file in Path(package).rglob("*.py")):
        if (lines := len(file.read_text().splitlines())) > MAX_FILE_LINES:
            found.append(f"{file}: {lines} lines; at most {MAX_FILE_LINES}")
        for node in ast.walk(ast.parse(file.read_text())) if "migrations" not in file.parts else ():
            if (
                isinstance(node, FUNCTIONS)
                and (lines := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES
            ):
                found.append(
                    f"{file}:{node.lineno}: {node.name} has {lines} lines; at most {MAX_FUNCTION_LINES}"
                )
    for folder in sorted({file.parent for package in PACKAGES for file in Path(package).rglob("*.py")}):
        names = [e.name for e in folder.iterdir() if e.name not in ("__init__.py", "__pycache__")]
        if len(names) > MAX_ENTRIES:
            found.append(f"{folder}: {len(names)} entries; at most {MAX_ENTRIES}")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(too_large()) or 0)
