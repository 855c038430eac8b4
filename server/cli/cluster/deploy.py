"""`loragate deploy`: runs servers on a Ray cluster."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--address",
    envvar="RAY_ADDRESS",
    default="",
    help="URL of the Ray cluster's dashboard, or host:port of its head from one of its machines. "
    "[env: RAY_ADDRESS; default: http://127.0.0.1:8265]",
)
@click.option(
    "--wait-s",
    type=click.FloatRange(0),
    default=3600.0,
    show_default=True,
    help="How long to wait until all servers run; 0 does not wait.",
)
@click.option("--dry-run", is_flag=True, help="Print what Ray Serve would get, as JSON, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def deploy(file: Path, address: str, wait_s: float, dry_run: bool, as_json: bool) -> None:
    """Run the servers that FILE describes on a Ray cluster.

    Creates them, changes their number, or replaces them one after the other, whatever is needed; a second time, the
    same file changes nothing. An example is deploy/ray/cluster.toml.
    """
    from server.cluster.ray_cluster.cluster_file import read_cluster_file
    from server.cluster.ray_cluster.joining import dashboard_url
    from server.cluster.ray_cluster.serve_api import Progress, ServeApi
    from server.cluster.ray_cluster.serve_config import application_of, change_of, document_with

    application = application_of(read_cluster_file(file))
    if dry_run:
        click.echo(json.dumps({"proxy_location": "Disabled", "applications": [application]}, indent=2))
        return

    def tell(progress: Progress) -> None:
        click.echo(str(progress), err=True)

    with ServeApi(dashboard_url(address)) as serve:
        running = serve.running()
        change = change_of(application, running)
        serve.apply(document_with(application, running))
        if wait_s:
            serve.wait(wait_s, tell)
    click.echo(json.dumps({"change": change.name.lower()}) if as_json else f"{file}: {change}")
