"""`loragate audit`: the log of changes, from a running server with `--url`, otherwise from the database."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from server.cli.storage import show
from server.cli.tenants.administration import Row, admin_options, administration
from server.cli.tenants.usage import TIMES

_COLUMNS = ("at", "actor", "key_id", "action", "subject", "details")


@admin_options
@click.command()
@click.option("--subject", help="Only changes of this model, version, tenant or key.")
@click.option("--actor", help="Only changes by this actor, for example acme or operator.")
@click.option("--action", help="Only this action, for example key.add, or all that begin so: key.")
@click.option("--search", help="Only entries with this text in actor, action or subject.")
@click.option("--from", "since", type=click.DateTime(TIMES), help="Not before this time, in UTC.")
@click.option("--to", "until", type=click.DateTime(TIMES), help="Before this time, in UTC.")
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="Maximum number of entries."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a header line.")
def audit(limit: int, as_json: bool, as_csv: bool, config: Path | None, **options: Any) -> None:
    """Show who changed what and when; the newest first."""
    if as_json and as_csv:
        raise click.UsageError("--json and --csv are two formats: give only one of them.")
    names = ("subject", "actor", "action", "search", "since", "until")
    filters = {name: _in_utc(options.pop(name)) for name in names}
    entries = administration(config, **options).audit(
        {name: value for name, value in filters.items() if value is not None}, limit
    )
    rows = [{name: entry[name] for name in _COLUMNS} for entry in entries]
    if as_csv:
        _print_csv(rows)
    else:
        show(rows if as_json else [_texts(row) for row in rows], as_json=as_json)


def _in_utc(value: Any) -> Any:
    """A time without zone is one in UTC."""
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value


def _texts(row: Row) -> Row:
    return {**row, "at": row["at"][:19].replace("T", " "), "details": json.dumps(row["details"])}


def _print_csv(rows: Sequence[Row]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([*list(row.values())[:-1], json.dumps(row["details"])] for row in rows)
