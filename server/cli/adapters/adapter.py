"""`loragate adapter`: calls a running server, which loads and probes an adapter before it serves it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from server.cli.adapters.admin_client import AdminClient, server_options
from server.cli.adapters.blend import blend, recipe_text
from server.cli.adapters.evaluate import condition_, evaluate, show_evaluations
from server.cli.adapters.merge import merge
from server.cli.adapters.rows import adapter_row, version_row
from server.cli.adapters.shadow import shadow
from server.cli.adapters.upload import add_folder, progress_shown
from server.cli.options import JsonObjectParam
from server.cli.storage import show

JSON_FLAG = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
GENERATION = click.option(
    "--expected-generation", type=int, help="Refuse the change if the adapter has another generation."
)

CONDITION = click.option(
    "--if",
    "condition",
    help="Only if the figures of the evaluations meet it: 'calls_right >= @current - 0.01 and loss < @current'.",
)


@click.group()
def adapter() -> None:
    """Adapters: their versions, and the traffic of each version."""


adapter.add_command(blend)
adapter.add_command(merge)
adapter.add_command(evaluate)
adapter.add_command(condition_)
adapter.add_command(shadow)


@adapter.command()
@click.argument("tenant")
@click.argument("name")
@click.argument("source")
@click.option(
    "--promote/--no-promote", default=True, show_default=True, help="Send all traffic to the version."
)
@click.option(
    "--sampling-defaults",
    type=JsonObjectParam(),
    default="{}",
    help="Default decoding options of this version, as a JSON object.",
)
@server_options
@JSON_FLAG
def add(
    tenant: str,
    name: str,
    source: str,
    promote: bool,
    sampling_defaults: dict[str, Any],
    url: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Add a version from SOURCE: a local folder (it is uploaded), hf://org/name@revision, s3://… or gs://…"""
    client = AdminClient(url, key)
    path = f"/adapters/{tenant}/{name}"
    body = {"promote": promote, "sampling_defaults": sampling_defaults}
    client.wait_for_engine()
    with progress_shown(client, path):
        if Path(source).is_dir():
            version = add_folder(client, path, Path(source), body)
        else:
            version = client.call("POST", f"{path}/versions", json={**body, "source": source})
    if as_json:
        click.echo(json.dumps(version))
        return
    serving = (
        f"; {tenant}-{name} answers with it"
        if promote
        else f"; try it as {tenant}-{name}@{version['number']}"
    )
    click.echo(f"added {tenant}-{name}@{version['number']} (rank {version['rank']}){serving}")
    _warn(version)


@adapter.command("list")
@server_options
@JSON_FLAG
def list_(url: str | None, key: str | None, as_json: bool) -> None:
    """List the adapters that the key may manage."""
    data = AdminClient(url, key).call("GET", "/adapters")["data"]
    show(data if as_json else [adapter_row(row) for row in data], as_json=as_json)


@adapter.command("show")
@click.argument("tenant")
@click.argument("name")
@server_options
@JSON_FLAG
def show_(tenant: str, name: str, url: str | None, key: str | None, as_json: bool) -> None:
    """Show an adapter's versions and the traffic of each version."""
    row = AdminClient(url, key).call("GET", f"/adapters/{tenant}/{name}")
    if as_json:
        click.echo(json.dumps(row, indent=2))
        return
    weights = {target["version"]: target["weight"] for target in row["alias"]["targets"]}
    click.echo(f"{row['model']}  generation {row['alias']['generation']}")
    show([version_row(version, weights) for version in row["versions"]], as_json=False)
    if row["condition"]:
        click.echo(f"a version gets traffic only if {row['condition']}")
    show_evaluations(row["evaluations"])
    for version in row["versions"]:
        _warn(version)
        if (version["recipe"] or {}).get("rank"):
            click.echo(f"version {version['number']} is a {recipe_text(version['recipe'])}")
        if version["number"] in weights:
            click.echo(f"decoding options of @{version['number']} for chat requests that set none:")
            show([{"option": o, **value} for o, value in version["decoding"].items()], as_json=False)


@adapter.command()
@click.argument("tenant")
@click.argument("name")
@click.argument("version", type=int)
@CONDITION
@GENERATION
@server_options
@JSON_FLAG
def promote(
    tenant: str,
    name: str,
    version: int,
    condition: str | None,
    expected_generation: int | None,
    url: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Send all traffic to VERSION, after the server has loaded and probed it."""
    body = {"version": version, "expected_generation": expected_generation, "if": condition}
    client = AdminClient(url, key)
    client.wait_for_engine()
    alias = client.call("POST", f"/adapters/{tenant}/{name}/promote", json=body)
    if as_json:
        click.echo(json.dumps(alias))
        return
    servers = len(alias["proven_on"])
    proven = f", proven on {servers} servers" if servers > 1 else ""
    click.echo(f"{tenant}-{name} answers with version {version} (generation {alias['generation']}{proven})")


@adapter.command()
@click.argument("tenant")
@click.argument("name")
@click.argument("weights", nargs=-1, required=True, metavar="VERSION=WEIGHT...")
@CONDITION
@GENERATION
@server_options
def split(
    tenant: str,
    name: str,
    weights: tuple[str, ...],
    condition: str | None,
    expected_generation: int | None,
    url: str | None,
    key: str | None,
) -> None:
    """Divide the traffic between versions: `split acme support 3=90 4=10`."""
    body = {
        "weights": dict(_weight(text) for text in weights),
        "expected_generation": expected_generation,
        "if": condition,
    }
    client = AdminClient(url, key)
    client.wait_for_engine()
    alias = client.call("POST", f"/adapters/{tenant}/{name}/split", json=body)
    shares = ", ".join(f"{target['version']}: {target['weight']:g}" for target in alias["targets"])
    click.echo(f"{tenant}-{name} is split over {shares} (generation {alias['generation']})")


@adapter.command()
@click.argument("tenant")
@click.argument("name")
@GENERATION
@server_options
def rollback(
    tenant: str, name: str, expected_generation: int | None, url: str | None, key: str | None
) -> None:
    """Send all traffic to the version that had it before."""
    body = {"expected_generation": expected_generation}
    client = AdminClient(url, key)
    client.wait_for_engine()
    alias = client.call("POST", f"/adapters/{tenant}/{name}/rollback", json=body)
    click.echo(f"{tenant}-{name} answers with version {alias['targets'][0]['version']} again")


@adapter.command()
@click.argument("tenant")
@click.argument("name")
@click.argument("version", type=int, required=False)
@click.confirmation_option(prompt="Remove it?")
@server_options
def remove(tenant: str, name: str, version: int | None, url: str | None, key: str | None) -> None:
    """Remove VERSION, or the whole adapter; requests in flight finish."""
    path = f"/adapters/{tenant}/{name}" + (f"/versions/{version}" if version else "")
    removed = AdminClient(url, key).call("DELETE", path)["data"]
    click.echo("; ".join(f"version {v['number']} is {v['state']}" for v in removed) or "removed")


@adapter.command()
@click.argument("tenant")
@click.argument("name")
@click.argument("version", type=int)
@click.option("--off", is_flag=True, help="Remove the pin.")
@server_options
def pin(tenant: str, name: str, version: int, off: bool, url: str | None, key: str | None) -> None:
    """Keep VERSION loaded, also across restarts."""
    AdminClient(url, key).call(
        "DELETE" if off else "PUT", f"/adapters/{tenant}/{name}/versions/{version}/pin"
    )
    click.echo(f"{tenant}-{name}@{version} is {'no longer pinned' if off else 'pinned'}")


def _warn(version: Mapping[str, Any]) -> None:
    for warning in version["warnings"]:
        click.echo(f"warning: version {version['number']}: {warning}", err=True)


def _weight(text: str) -> tuple[str, float]:
    version, _, weight = text.partition("=")
    try:
        return str(int(version)), float(weight)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not VERSION=WEIGHT, for example 3=90.") from error
