"""The file named by `--config`, and what is said of values that cannot be used."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from server.errors import SettingsError


def read_config(path: Path, known: Collection[str]) -> dict[str, Any]:
    """The file's values. Raises: SettingsError: it cannot be read, or has a key that is not `known`."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--config {path} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"--config {path} is not TOML: {error}") from error
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)
            raise SettingsError(f"--config {path}: {key} is not a setting; did you mean {near[0]}?")
    return values


def fault_sentences(error: ValidationError) -> str:
    """One line per fault: flag, value and what was expected."""
    lines = []
    for fault in error.errors():
        flag = "".join(f"--{part}".replace("_", "-") for part in fault["loc"][:1])
        text = fault["msg"].removeprefix("Value error, ")
        lines.append(f"{flag} {fault['input']}: {text}" if flag else text)
    return "\n".join(lines)
