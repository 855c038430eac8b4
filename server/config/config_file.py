"""The file named by `--config`, and the sentences for values that cannot be used."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, TomlConfigSettingsSource

from server.errors import SettingsError


class ConfigFile(TomlConfigSettingsSource):
    """A TOML file with fields of the settings as keys."""

    def __init__(self, settings: type[BaseSettings], path: Path) -> None:
        """Read the file. Raises: SettingsError: it cannot be read, or has a key that is not a setting."""
        if not path.is_file():  # pydantic-settings ignores a missing file
            raise SettingsError(f"--config {path} cannot be read: There is no such file.")
        try:
            super().__init__(settings, path)
        except OSError as error:
            raise SettingsError(f"--config {path} cannot be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"--config {path} is not TOML: {error}.") from error
        for key in self.toml_data:
            if key not in settings.model_fields:
                nearest = nearest_name(key, settings.model_fields)
                raise SettingsError(f"--config {path}: {key} is not a setting. Did you mean {nearest}?")

    def __call__(self) -> dict[str, Any]:
        """The file's values that no flag and no variable replaces; pydantic-settings would merge their tables."""
        return {key: value for key, value in super().__call__().items() if key not in self.current_state}


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The known name that is most like `name`."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0)[0]


def fault_sentences(error: ValidationError, hidden: Collection[str] = ()) -> str:
    """One line per fault: the flag, its value (unless the setting is one of `hidden`) and what was expected."""
    lines = []
    for fault in error.errors():
        flag = "".join(f"--{part}".replace("_", "-") for part in fault["loc"][:1])
        value = "(from a file)" if fault["loc"][:1] and fault["loc"][0] in hidden else fault["input"]
        text = fault["msg"].removeprefix("Value error, ")
        lines.append(f"{flag} {value}: {text}" if flag else text)
    return "\n".join(lines)
