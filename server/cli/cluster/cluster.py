"""`loragate cluster`: the servers behind a front."""

from __future__ import annotations

import json
from typing import Any

import click

from server.cli.adapters.admin_client import AdminClient, server_options
from server.cli.storage import show


@click.group()
def cluster() -> None:
    """Show the servers behind a front; drain one."""


@cluster.command()
@server_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def status(url: str | None, key: str | None, as_json: bool) -> None:
    """Show each server: its state, its load, and the adapters that it holds."""
    rows = AdminClient(url, key).call("GET", "/cluster")["data"]
    show(rows if as_json else [_texts(row) for row in rows], as_json=as_json)


@cluster.command()
@server_options
@click.argument("replica")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def drain(url: str | None, key: str | None, replica: str, as_json: bool) -> None:
    """Let a server finish its answers and end; Ray starts another in its place."""
    answer = AdminClient(url, key).call("POST", f"/cluster/{replica}/drain")
    if as_json:
        click.echo(json.dumps(answer))
        return
    click.echo(
        f"{replica} finishes {answer['in_flight']} requests and ends; Ray starts another in its place."
    )


def _texts(row: dict[str, Any]) -> dict[str, Any]:
    answers = row["held"] is not None
    return {
        "id": row["id"],
        "state": row["state"],
        "version": row["version"],
        "in flight": row["in_flight"],
        "waiting": row["waiting"],
        "kv use": f"{row['kv_use']:.0%}" if answers else None,
        "slots": f"{len(row['computing'])}/{row['slots']}" if answers else None,
        "holds": " ".join(row["held"]) if answers else None,
    }
