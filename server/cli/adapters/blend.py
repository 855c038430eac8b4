"""`loragate adapter blend`: a version that combines other versions of the same tenant."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import click

from server.cli.adapters.admin_client import AdminClient, server_options

_PART = re.compile(r"(?P<adapter>[^@:]+)(?:@(?P<version>[1-9]\d{0,8}))?(?::(?P<scale>[^:@]+))?")


@click.command()
@click.argument("model")
@click.argument("parts", nargs=-1, required=True, metavar="NAME[@VERSION][:SCALE]...")
@click.option(
    "--reduce-rank",
    type=click.IntRange(min=1),
    help="Approximate the blend with this rank (singular value decomposition). Default: exact, the sum of the ranks.",
)
@click.option(
    "--promote/--no-promote", default=True, show_default=True, help="Send all traffic to the version."
)
@server_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def blend(
    model: str,
    parts: tuple[str, ...],
    reduce_rank: int | None,
    promote: bool,
    url: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Add a version of MODEL that combines others: `blend acme-concierge support@3:1.0 tone@2:0.5`.

    All belong to the same tenant. Without a scale it is 1, without a version the one that the adapter serves.
    """
    tenant, dash, name = model.partition("-")
    if not dash:
        raise click.BadParameter(f"{model!r} is not TENANT-NAME, for example acme-concierge.")
    body = {"of": [parse_part(text) for text in parts], "reduce_rank": reduce_rank, "promote": promote}
    client = AdminClient(url, key)
    client.wait_for_engine()
    version = client.call("POST", f"/adapters/{tenant}/{name}/blend", json=body)
    if as_json:
        click.echo(json.dumps(version))
        return
    serving = f"; {model} answers with it" if promote else f"; try it as {model}@{version['number']}"
    click.echo(f"added {model}@{version['number']}: {recipe_text(version['recipe'])}{serving}")


def parse_part(text: str) -> dict[str, Any]:
    """Read `support@3:0.5`. Raises: click.BadParameter."""
    match = _PART.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        return {
            "adapter": match["adapter"],
            "version": int(match["version"]) if match["version"] else None,
            "scale": float(match["scale"] or 1.0),
        }
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not NAME@VERSION:SCALE, for example support@3:0.5.") from error


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """A blend's recipe in words."""
    parts = ", ".join(f"{part['adapter']}@{part['version']} x {part['scale']:g}" for part in recipe["of"])
    kind = "exact" if recipe["reduce_rank"] is None else f"relative error {recipe['relative_error']:.2%}"
    return f"blend of {parts} (rank {recipe['rank']}, {kind})"
