"""`loragate serve`: starts the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from server.cli.options import given, settings_options


@settings_options()
@click.command()
def serve(config: Path | None, **flags: Any) -> None:
    """Start the server: one base model in vLLM, with the adapters of every tenant."""
    from concurrent.futures import ThreadPoolExecutor

    from server.config.environment import cores_to_bind, export_engine_environment
    from server.config.logs import write_config
    from server.config.settings import load
    from server.engine.process import fork_server

    settings = load(given(flags), config=config)
    logging_config = write_config(settings.home, settings.log_format, settings.log_level)
    cores = cores_to_bind(settings)
    export_engine_environment(cores, logging_config, steers_answers=settings.repetition_adjustment)

    # This one thread starts every engine: the engine's processes end when their thread ends.
    runner = ThreadPoolExecutor(1, "loragate-engine")
    if cores:
        runner.submit(fork_server.start, fork_server.worker_environment(cores)).result()

    # vLLM reads the environment when it is imported, so this import must come after.
    from server.app.process import run

    raise SystemExit(run(settings, runner))
