"""`loragate adapter evaluate` and `condition`: a version's figures on held-out chats, and what they must reach."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from server.cli.adapters.admin_client import AdminClient, server_options
from server.cli.storage import show

_VERSION = re.compile(r"(?P<tenant>[^-@]+)-(?P<name>[^@]+)@(?P<number>[1-9]\d{0,8})")
_AGAINST = re.compile(r"@?([1-9]\d{0,8})")
_POLL_S = 1.0
#: The figures of a listing, and where more is better.
_SHOWN = ("turns", "exact", "calls_right", "json_valid", "stops", "repeats", "win_rate", "loss", "perplexity")


@click.command()
@click.argument("version", metavar="NAME@VERSION")
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Held-out chats, one JSON object per line, in any form that `loragate train` reads.",
)
@click.option(
    "--against", metavar="@VERSION", help="Evaluate this version of the adapter, too, and show both."
)
@click.option(
    "--turns",
    type=click.IntRange(1, 2000),
    default=200,
    show_default=True,
    help="Answers to evaluate, at most.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1, 8192),
    default=256,
    show_default=True,
    help="Longest answer, in tokens.",
)
@click.option("--judge", metavar="NAME", help="Let this judge of the server compare the answers, too.")
@click.option("--no-wait", is_flag=True, help="Return when it has begun; `adapter show` has its progress.")
@server_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    version: str,
    data: Path,
    against: str | None,
    turns: int,
    max_tokens: int,
    judge: str | None,
    no_wait: bool,
    url: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Evaluate a version on held-out chats, on the serving engine: `evaluate acme-support@4 --data heldout.jsonl`.

    It takes only what requests leave. Interrupted, the same command goes on where it was left.
    """
    tenant, name, number = parse_version(version)
    numbers = [number] if against is None else [number, parse_against(against)]
    client = AdminClient(url, key)
    client.wait_for_engine()
    params = {"turns": turns, "max_tokens": max_tokens} | ({"judge": judge} if judge else {})
    begun = [begin_evaluation(client, f"/adapters/{tenant}/{name}", each, data, params) for each in numbers]
    ended = begun if no_wait else [wait_for_evaluation(client, each, quiet=as_json) for each in begun]
    if as_json:
        click.echo(json.dumps(ended if against else ended[0]))
    else:
        show([evaluation_row(each) for each in ended], as_json=False)
    failed = [each for each in ended if each["state"] in ("failed", "cancelled")]
    if failed:
        reasons = "; ".join(
            f"@{e['version']} {e['state']}: {e['error'] or 'by somebody else'}" for e in failed
        )
        raise click.ClickException(reasons)


@click.command("condition")
@click.argument("tenant")
@click.argument("name")
@click.argument("condition", required=False, metavar="[CONDITION]")
@click.option("--off", is_flag=True, help="Remove the condition.")
@server_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def condition_(
    tenant: str,
    name: str,
    condition: str | None,
    off: bool,
    url: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Show or set what figures a version needs before it gets traffic: `condition acme support 'loss < @current'`."""
    if off and condition:
        raise click.UsageError("Give a condition or --off, not both.")
    client, path = AdminClient(url, key), f"/adapters/{tenant}/{name}"
    if off:
        found = client.call("DELETE", f"{path}/condition")
    elif condition:
        found = client.call("PUT", f"{path}/condition", json={"if": condition})
    else:
        found = {"condition": client.call("GET", path)["condition"]}
    if as_json:
        click.echo(json.dumps(found))
    elif found["condition"] is None:
        click.echo(f"{tenant}-{name} has no condition: every version may be promoted")
    else:
        click.echo(f"{tenant}-{name} promotes a version only if {found['condition']}")


def begin_evaluation(
    client: AdminClient, path: str, number: int, data: Path, params: Mapping[str, Any]
) -> dict[str, Any]:
    """Begin an evaluation, or go on with it. Raises: click.ClickException."""
    with data.open("rb") as chats:
        begun: dict[str, Any] = client.call(
            "POST",
            f"{path}/versions/{number}/evaluations",
            params=params,
            content=chats,
            headers={"content-type": "application/octet-stream"},
        )
    return begun


def wait_for_evaluation(
    client: AdminClient, evaluation: dict[str, Any], *, quiet: bool = False
) -> dict[str, Any]:
    """Wait until the evaluation has ended, with its progress on stderr. Raises: click.ClickException."""
    path = f"/adapters/{evaluation['tenant']}/{evaluation['adapter']}/evaluations/{evaluation['id']}"
    told = -1
    while evaluation["state"] == "running":
        if not quiet and evaluation["turns"] and evaluation["done"] != told:
            told = evaluation["done"]
            click.echo(f"@{evaluation['version']}: {told} of {evaluation['turns']} turns", err=True)
        time.sleep(_POLL_S)
        evaluation = client.call("GET", path)
    return evaluation


def evaluation_row(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation as a row of a table."""
    figures = evaluation["figures"] or {}
    progress = (
        f" ({evaluation['done']} of {evaluation['turns'] or '?'})" if evaluation["state"] == "running" else ""
    )
    return {
        "version": f"@{evaluation['version']}",
        "state": evaluation["state"] + progress,
        **{name: figures.get(name) for name in _SHOWN},
        "data": evaluation["data_digest"][:12],
    }


def show_evaluations(evaluations: Sequence[Mapping[str, Any]]) -> None:
    """Print the evaluations of an adapter."""
    if evaluations:
        click.echo("evaluations, the newest first:")
        show([evaluation_row(each) for each in evaluations], as_json=False)


def parse_version(text: str) -> tuple[str, str, int]:
    """Read `acme-support@4`. Raises: click.BadParameter."""
    match = _VERSION.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not NAME@VERSION, for example acme-support@4.")
    return match["tenant"], match["name"], int(match["number"])


def parse_against(text: str) -> int:
    """Read `@3`. Raises: click.BadParameter."""
    match = _AGAINST.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not @VERSION, for example @3.", param_hint="--against")
    return int(match[1])
