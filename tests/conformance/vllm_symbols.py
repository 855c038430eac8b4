"""What our code imports from vLLM and the installed vLLM does not have.

Run it with another version: install that version's wheel without its dependencies into an environment that sees
the packages of .venv, then `python tests/conformance/vllm_symbols.py`. `docs/upgrading.md` has the last result.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

PACKAGES = ("server", "benchmarks", "tests")


def imports() -> dict[tuple[str, str], list[str]]:
    """(module, name) → the files that import it; the name is empty for `import module`."""
    found: dict[tuple[str, str], list[str]] = {}
    for file in sorted(file for package in PACKAGES for file in Path(package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                pairs = [(str(node.module), alias.name) for alias in node.names]
            elif isinstance(node, ast.Import):
                pairs = [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "vllm"]
            else:
                continue
            for pair in pairs:
                found.setdefault(pair, []).append(str(file))
    return found


def missing(module: str, name: str) -> str:
    """Why the import fails, or nothing."""
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        return str(error)
    if not name or hasattr(loaded, name):
        return ""
    try:
        importlib.import_module(f"{module}.{name}")
    except ImportError:
        return f"{module} has no {name}"
    return ""


def main() -> int:
    import vllm

    found = imports()
    faults = {pair: fault for pair in sorted(found) if (fault := missing(*pair))}
    for (module, name), fault in faults.items():
        print(f"{module}.{name}: {fault}\n    {', '.join(found[module, name])}")
    print(f"vLLM {vllm.__version__}: {len(found) - len(faults)} of {len(found)} imported names are there")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
