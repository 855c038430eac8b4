"""docs/configuration.md, made from the settings: `python -m server.documentation docs/configuration.md`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from server.settings import ENV_PREFIX, Settings

_HEAD = """# Configuration

Made from `server/settings.py` by `make docs`; do not edit it here.

A value comes from the first of: the flag, the environment variable, the file named by `--config` (TOML, the
names below with underscores as keys), the default. An unknown variable that begins with `LORAGATE_` is an error.
`LORAGATE_URL` and `LORAGATE_KEY` are read by `loragate adapter` alone: the server to ask, and the key.

| flag | variable | default | meaning |
|---|---|---|---|
"""


def configuration() -> str:
    """The whole document."""
    return _HEAD + "".join(_row(name) for name in Settings.model_fields)


def _row(name: str) -> str:
    field = Settings.model_fields[name]
    default = "" if field.default in (None, "", {}) else f"`{field.default}`"
    meaning = (field.description or "").replace("\n", " ").replace("|", "\\|")
    return f"| `--{name.replace('_', '-')}` | `{ENV_PREFIX}{name.upper()}` | {default} | {meaning} |\n"


def main(arguments: Sequence[str]) -> None:
    """Write the document to the path given."""
    Path(arguments[0]).write_text(configuration(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
