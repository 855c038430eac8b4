"""`loragate front`: a front of the servers that `loragate deploy` runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from server.cli.options import given, settings_options

_FIELDS = (
    "host",
    "port",
    "tls_cert",
    "tls_key",
    "max_body_bytes",
    "read_timeout_s",
    "shutdown_timeout",
    "log_format",
    "log_level",
)


@settings_options(*_FIELDS)
@click.command()
@click.option(
    "--address",
    envvar="RAY_ADDRESS",
    default="",
    help="host:port of the Ray cluster's head, which this machine has joined. [env: RAY_ADDRESS; default: its own "
    "cluster]",
)
def front(config: Path | None, address: str, **flags: Any) -> None:
    """Start a front of the servers on a Ray cluster: it sends each request to one of them.

    Start as many as you like, on machines of the cluster, behind a load balancer; they keep nothing.
    """
    from server.cluster.ray_cluster.joining import run_front_of
    from server.config.settings import load

    raise SystemExit(run_front_of(address, load(given(flags), config=config, to_serve=False)))
