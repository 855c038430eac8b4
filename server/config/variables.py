"""The environment variables of loragate: their names, and those that are refused."""

from __future__ import annotations

import os
from collections.abc import Set

from pydantic_settings import BaseSettings, EnvSettingsSource

from server.config.config_file import nearest_name
from server.config.secret_files import SUFFIX
from server.errors import SettingsError

ENV_PREFIX = "LORAGATE_"
#: Read by the commands that call a running server; these are not settings of `serve`.
CLIENT_KEY_VARIABLE = "LORAGATE_KEY"
CLIENT_URL_VARIABLE = "LORAGATE_URL"
#: Read by `train`: the API key for the endpoint of `--judge`.
JUDGE_KEY_VARIABLE = "LORAGATE_JUDGE_KEY"


def environment_without(settings: type[BaseSettings], ignored: Set[str]) -> EnvSettingsSource:
    """The settings in the environment, without these variables."""
    source = EnvSettingsSource(settings)
    dropped = {name.lower() for name in ignored}  # pydantic-settings compares names in lower case
    source.env_vars = {name: value for name, value in source.env_vars.items() if name not in dropped}
    return source


def refuse_unknown(settings: type[BaseSettings], ignored: Set[str]) -> None:
    """Check that each variable with our prefix is known or ignored. Raises: SettingsError."""
    known = {f"{ENV_PREFIX}{field.upper()}" for field in settings.model_fields}
    known |= {CLIENT_KEY_VARIABLE, CLIENT_URL_VARIABLE, JUDGE_KEY_VARIABLE}
    known |= {f"{name}{SUFFIX}" for name in known}
    for name in sorted(os.environ.keys() - ignored):
        if name.startswith(ENV_PREFIX) and name not in known:
            raise SettingsError(
                f"{name} is not a setting of loragate. Did you mean {nearest_name(name, known)}?"
            )
