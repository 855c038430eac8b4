"""`loragate price`: on a running server with `--url`, otherwise in the database."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from server.cli.billing.administration import billing_administration
from server.cli.storage import show
from server.cli.tenants.administration import Row, admin_options_with

_HOURS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M%z"]
_from_option = click.option(
    "--from",
    "valid_from",
    type=click.DateTime(_HOURS),
    help="Start of an hour, in UTC unless it has a time zone.  [default: the next hour]",
)
_backdate_option = click.option(
    "--backdate",
    is_flag=True,
    help="Allow --from in the past, which changes the cost of usage counted already.",
)


@click.group()
def price() -> None:
    """Prices per million tokens: for everybody, a tenant, or an adapter of a tenant."""


@admin_options_with("currency")
@price.command("set")
@click.argument("tenant", required=False, default="")
@click.argument("adapter", required=False, default="")
@click.option("--prompt", required=True, help="Of prompt tokens, per million tokens.")
@click.option("--cached", help="Of prompt tokens that the prefix cache has.  [default: as --prompt]")
@click.option("--generated", required=True, help="Of generated tokens, per million tokens.")
@_from_option
@_backdate_option
def set_(
    tenant: str,
    adapter: str,
    prompt: str,
    cached: str | None,
    generated: str,
    valid_from: datetime | None,
    backdate: bool,
    config: Path | None,
    **flags: Any,
) -> None:
    """Set the price for ADAPTER of TENANT, for TENANT, or for everybody."""
    amounts = {"prompt": prompt, "cached": cached, "generated": generated}
    entry = billing_administration(config, **flags).set_price(
        _scope(tenant, adapter, valid_from, backdate) | amounts
    )
    click.echo(f"Set the price from {_minute(entry)} UTC on.")


@admin_options_with("currency")
@price.command()
@click.argument("tenant")
@click.argument("adapter", required=False, default="")
@_from_option
@_backdate_option
def end(
    tenant: str, adapter: str, valid_from: datetime | None, backdate: bool, config: Path | None, **flags: Any
) -> None:
    """End the own price of ADAPTER of TENANT, or of TENANT: then the tenant's, or everybody's, holds."""
    entry = billing_administration(config, **flags).set_price(
        _scope(tenant, adapter, valid_from, backdate) | {"ends": True}
    )
    click.echo(f"Ended the price from {_minute(entry)} UTC on.")


@admin_options_with("currency")
@price.command("list")
@click.argument("tenant", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(tenant: str | None, as_json: bool, config: Path | None, **flags: Any) -> None:
    """List past, present and future prices: all, or those for TENANT and everybody."""
    rows = billing_administration(config, **flags).prices(tenant)
    show(rows if as_json else [_row(row) for row in rows], as_json=as_json)


@admin_options_with("currency")
@price.command()
@click.argument("tenant", required=False, default="")
@click.argument("adapter", required=False, default="")
@click.option("--from", "valid_from", type=click.DateTime(_HOURS), required=True, help="Its first hour.")
def remove(tenant: str, adapter: str, valid_from: datetime, config: Path | None, **flags: Any) -> None:
    """Remove a price that does not hold yet."""
    begins = _in_utc(valid_from)
    billing_administration(config, **flags).remove_price(tenant, adapter, begins)
    click.echo(f"Removed the price from {begins:%Y-%m-%dT%H:%M} UTC.")


def _scope(tenant: str, adapter: str, valid_from: datetime | None, backdate: bool) -> dict[str, Any]:
    begins = None if valid_from is None else _in_utc(valid_from).isoformat()
    return {"tenant": tenant, "adapter": adapter, "valid_from": begins, "backdate": backdate}


def _row(row: Row) -> Row:
    names = {"tenant": row["tenant"] or "(everybody)", "adapter": row["adapter"] or "(all)"}
    return row | names | {"valid_from": _minute(row)}


def _minute(row: Row) -> str:
    return datetime.fromisoformat(row["valid_from"]).astimezone(UTC).strftime("%Y-%m-%dT%H:%M")


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
