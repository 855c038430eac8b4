"""Settings whose value is in a file: `LORAGATE_<SETTING>_FILE` has the file's path.

Orchestrators mount secrets as files (Kubernetes, Docker, systemd's LoadCredential), so that a password is in no
environment and no process list.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings, EnvSettingsSource

from server.errors import SettingsError

SUFFIX = "_FILE"
MAX_FILE_BYTES = 1 << 20


def read_variable_or_file(environment: Mapping[str, str], name: str) -> str | None:
    """The value of `name`, or the content of the file that `<name>_FILE` names; None where neither is set.

    Line ends at the end of the content are not part of the value.

    Raises:
        SettingsError: both are set, or the file cannot be used; the message never has the content.
    """
    path = environment.get(f"{name}{SUFFIX}")
    if path is None:
        return environment.get(name)
    if name in environment:
        raise SettingsError(f"{name} and {name}{SUFFIX} are both set: keep one of them.")
    return read_secret(f"{name}{SUFFIX}", Path(path))


def read_secret(name: str, path: Path) -> str:
    """The content of a file that the setting `name` names. Raises: SettingsError; see `read_variable_or_file`."""
    try:
        with path.expanduser().open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{name} {path} cannot be read: {error.strerror}.") from error
    if len(content) > MAX_FILE_BYTES:
        raise SettingsError(f"{name} {path} has more than {MAX_FILE_BYTES} bytes: it is the wrong file.")
    try:
        value = content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{name} {path} is not text in UTF-8: it is the wrong file.") from error
    if not value or "\0" in value:
        what = "has a null character" if value else "is empty"
        raise SettingsError(f"{name} {path} {what}: write the value into the file.")
    return value


class FileVariables(EnvSettingsSource):
    """The settings whose variable names a file."""

    def __init__(self, settings: type[BaseSettings], environment: Mapping[str, str]) -> None:
        """Read the files. Raises: SettingsError: a file cannot be used, or the setting is itself a path."""
        prefix = settings.model_config.get("env_prefix", "")
        self.names: list[str] = []
        """The settings that come from files; their values must not be shown."""
        values = {}
        for name, field in settings.model_fields.items():
            variable = f"{prefix}{name.upper()}"
            if f"{variable}{SUFFIX}" not in environment:
                continue
            if Path in (field.annotation, *getattr(field.annotation, "__args__", ())):
                raise SettingsError(
                    f"{variable}{SUFFIX} is no setting: {variable} itself is the path of a file."
                )
            self.names.append(name)
            values[variable.lower()] = read_variable_or_file(environment, variable)
        self._values = values
        super().__init__(settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._values

    def __call__(self) -> dict[str, Any]:
        """The values that no flag replaces; pydantic-settings would merge JSON objects."""
        return {key: value for key, value in super().__call__().items() if key not in self.current_state}
