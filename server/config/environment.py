"""What is read from the environment besides the settings."""

from __future__ import annotations

import os
from pathlib import Path

from server.config.secret_files import read_variable_or_file


def read_variable(name: str) -> str | None:
    """The value of an environment variable, or of the file that `<name>_FILE` names; None where neither is set.

    Raises:
        SettingsError: both are set, or the file cannot be read.
    """
    return read_variable_or_file(os.environ, name)


def login_shell() -> str:
    """The name of the user's shell, such as bash; empty where the environment does not say."""
    return Path(os.environ.get("SHELL", "")).name


def otlp_protocol() -> str:
    """The protocol for exporting spans: OpenTelemetry's own variable, which vLLM reads too."""
    return os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
