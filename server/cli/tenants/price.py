"""`loragate price`: changes the database, whether the server runs or not."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from server.cli.options import STORAGE_FIELDS, settings_options
from server.cli.storage import operator_at_shell, show, storage_settings, with_registry

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


@settings_options(*STORAGE_FIELDS, "currency")
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
    from server.api.admin.billing.prices import read_price

    _set(
        config,
        flags,
        tenant,
        adapter,
        read_price(prompt, cached, generated, ends=False),
        valid_from,
        backdate,
    )


@settings_options(*STORAGE_FIELDS, "currency")
@price.command()
@click.argument("tenant")
@click.argument("adapter", required=False, default="")
@_from_option
@_backdate_option
def end(
    tenant: str, adapter: str, valid_from: datetime | None, backdate: bool, config: Path | None, **flags: Any
) -> None:
    """End the own price of ADAPTER of TENANT, or of TENANT: then the tenant's, or everybody's, holds."""
    _set(config, flags, tenant, adapter, None, valid_from, backdate)


@settings_options(*STORAGE_FIELDS, "currency")
@price.command("list")
@click.argument("tenant", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(tenant: str | None, as_json: bool, config: Path | None, **flags: Any) -> None:
    """List past, present and future prices: all, or those for TENANT and everybody."""
    settings = storage_settings(config, flags)
    entries = with_registry(settings, lambda r: r.prices.list()).entries
    seen = [entry for entry in entries if tenant is None or entry.tenant in ("", tenant)]
    show([_row(entry, settings.currency, as_json=as_json) for entry in seen], as_json=as_json)


@settings_options(*STORAGE_FIELDS, "currency")
@price.command()
@click.argument("tenant", required=False, default="")
@click.argument("adapter", required=False, default="")
@click.option("--from", "valid_from", type=click.DateTime(_HOURS), required=True, help="Its first hour.")
def remove(tenant: str, adapter: str, valid_from: datetime, config: Path | None, **flags: Any) -> None:
    """Remove a price that does not hold yet."""
    begins = _in_utc(valid_from)
    with_registry(
        storage_settings(config, flags),
        lambda r: r.prices.remove(tenant, adapter, begins, by=operator_at_shell()),
    )
    click.echo(f"Removed the price from {begins:%Y-%m-%dT%H:%M} UTC.")


def _set(
    config: Path | None,
    flags: dict[str, Any],
    tenant: str,
    adapter: str,
    value: Any,
    valid_from: datetime | None,
    backdate: bool,
) -> None:
    begins = None if valid_from is None else _in_utc(valid_from)
    entry = with_registry(
        storage_settings(config, flags),
        lambda r: r.prices.set(
            tenant, adapter, value, by=operator_at_shell(), valid_from=begins, backdate=backdate
        ),
    )
    done = "Ended the price" if value is None else "Set the price"
    click.echo(f"{done} from {entry.valid_from:%Y-%m-%dT%H:%M} UTC on.")


def _row(entry: Any, currency: str, *, as_json: bool) -> dict[str, Any]:
    from server.api.admin.billing.prices import price_row

    row = price_row(entry, currency)
    if as_json:
        return row | {"valid_from": entry.valid_from.isoformat()}
    names = {"tenant": entry.tenant or "(everybody)", "adapter": entry.adapter or "(all)"}
    return row | names | {"valid_from": f"{entry.valid_from:%Y-%m-%dT%H:%M}"}


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
