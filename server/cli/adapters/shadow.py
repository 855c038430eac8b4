"""`loragate adapter shadow`: copies of requests on another version, and how its answers compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from server.cli.adapters.admin_client import AdminClient, server_options
from server.cli.adapters.evaluate import parse_against
from server.cli.storage import show


@click.command()
@click.argument("model")
@click.option("--to", "version", metavar="@VERSION", help="The version that gets copies of requests.")
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the requests, 0 to 1.  [default: 0.05]",
)
@click.option("--off", is_flag=True, help="Send no more copies.")
@click.option("--texts", is_flag=True, help="Show the texts of differing answers that are kept.")
@click.option(
    "--keep-texts/--no-keep-texts",
    default=None,
    help="Keep such texts from now on (with a key of the tenant's admin), or keep none and remove them.",
)
@server_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def shadow(
    model: str,
    version: str | None,
    share: float | None,
    off: bool,
    texts: bool,
    keep_texts: bool | None,
    url: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Send copies of MODEL's requests to another version, or compare: `shadow acme-support --to @4`.

    Nobody sees the copies' answers, and only figures are stored, unless the tenant keeps texts.
    """
    tenant, dash, name = model.partition("-")
    if not dash:
        raise click.BadParameter(f"{model!r} is not TENANT-NAME, for example acme-support.")
    if (off and version) or (share and not version):
        raise click.UsageError("Give --to @VERSION with or without --share, or --off alone.")
    client, path = AdminClient(url, key), f"/adapters/{tenant}/{name}/shadow"
    if texts or keep_texts is not None:
        _show_texts(client, f"{path}/texts", keep_texts, as_json=as_json)
        return
    if version:
        body = {"version": parse_against(version), "share": share or 0.05}
        found = client.call("PUT", path, json=body)
    else:
        found = client.call("DELETE" if off else "GET", path)
    if as_json:
        click.echo(json.dumps(found))
        return
    if found["version"] is None:
        click.echo(f"{model} has no shadow")
        return
    click.echo(f"@{found['version']} gets copies of {found['share']:.1%} of {model}'s requests")
    for against, metrics in found["figures"].items():
        show([figure_row(against, metric, figure) for metric, figure in metrics.items()], as_json=False)


def _show_texts(client: AdminClient, path: str, keep: bool | None, *, as_json: bool) -> None:
    found = client.call({None: "GET", True: "PUT", False: "DELETE"}[keep], path)
    if as_json:
        click.echo(json.dumps(found))
        return
    kept = (
        f"texts are kept, as {found['by']} has said on {found['at']}"
        if found["kept"]
        else "no texts are kept"
    )
    click.echo(kept)
    for pair in found["data"]:
        click.echo(f"\n{pair['at']}: {pair['prompt']}")
        click.echo(f"@{pair['against']}: {pair['served']}\n@{pair['version']}: {pair['shadow']}")


def figure_row(against: str, metric: str, figure: Mapping[str, Any]) -> dict[str, Any]:
    """One metric as a row."""
    low, high = figure["low"], figure["high"]
    return {
        "metric": metric,
        "requests": figure["count"],
        f"@{against}": figure["served"],
        "shadow": figure["shadow"],
        "difference": figure["difference"],
        "95 % bounds": None if low is None else f"{low:g} to {high:g}",
    }
