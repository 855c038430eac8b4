"""`loragate serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from server.commands.options import given, settings_options


@settings_options()
@click.command()
def serve(config: Path | None, **flags: Any) -> None:
    """Start the server: one base model, every tenant's adapters, vLLM underneath."""
    from server.logs import write_config
    from server.settings import export_engine_environment, load

    settings = load(given(flags), config=config)
    logging_config = write_config(settings.home, settings.log_format, settings.log_level)
    export_engine_environment(settings, logging_config)

    # vLLM reads the environment when it is imported, so the server comes after it is set.
    from server.main import run

    raise SystemExit(run(settings))
