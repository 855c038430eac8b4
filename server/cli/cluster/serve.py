"""`loragate serve`: starts the server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from server.cli.options import given, settings_options

if TYPE_CHECKING:
    from server.config.settings import Settings


@settings_options()
@click.command()
@click.option(
    "--replicas",
    type=click.IntRange(1),
    default=1,
    help="Servers on this machine behind one address; more than one needs PostgreSQL and Ray.  [default: 1]",
)
def serve(config: Path | None, replicas: int, **flags: Any) -> None:
    """Start the server: one base model in vLLM, with the adapters of every tenant."""
    from concurrent.futures import ThreadPoolExecutor

    from server.app.start_progress import StartProgress
    from server.config.logs import configure
    from server.config.process_environment import cores_to_bind, export_engine_environment
    from server.config.settings import load
    from server.engine.process import fork_server
    from server.engine.process.parent_death import request_parent_death_signal

    settings = load(given(flags), config=config)
    if replicas > 1:
        from server.cluster import local_cluster

        raise SystemExit(
            local_cluster.run_cluster(
                given(flags) | ({"config": config} if config else {}), settings, replicas
            )
        )
    if settings.replica_token:
        request_parent_death_signal()
    logging_config = _logging_config(settings)
    cores = cores_to_bind(settings)
    export_engine_environment(cores, logging_config, steers_answers=settings.repetition_adjustment)

    # Before the imports, which log something, too.
    configure(settings.log_format, settings.log_level, settings.replica_name)
    progress = StartProgress.on_terminal()
    progress.stage("Importing vLLM")
    # This one thread starts every engine: the engine's processes end when their thread ends.
    runner = ThreadPoolExecutor(1, "loragate-engine")
    if cores:
        runner.submit(fork_server.start, fork_server.worker_environment(cores)).result()

    # vLLM reads the environment when it is imported, so this import must come after.
    from server.app.process import leave, run

    leave(run(settings, runner, progress), runner)


def _logging_config(settings: Settings) -> Path:
    """The file with the logging of the engine's processes. Raises: SettingsError: it cannot be written."""
    from server.config.logs import write_config
    from server.errors import SettingsError

    try:
        return write_config(settings.home, settings.log_format, settings.log_level, settings.replica_name)
    except OSError as error:
        raise SettingsError(
            f"The data folder {settings.home} cannot be written ({error.strerror}); make room in it, let the "
            "server's user write to it, or name another --data-dir."
        ) from error
