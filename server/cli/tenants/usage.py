"""`loragate usage`, also `loragate tenant usage`: from a running server with `--url`, otherwise from the database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from server.cli.tenants.administration import admin_options_with, administration

#: Forms of a time on the command line.
TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]


@admin_options_with("currency")
@click.command()
@click.argument("tenant", required=False)
@click.option(
    "--from",
    "since",
    type=click.DateTime(TIMES),
    help="First hour to count, in UTC unless it has a time zone.  [default: start of this month]",
)
@click.option("--to", "until", type=click.DateTime(TIMES), help="First hour not to count.  [default: now]")
@click.option(
    "--by",
    type=click.Choice(["hour", "day", "month"]),
    default="day",
    show_default=True,
    help="Period of one row.",
)
@click.option("--keys", "per_key", is_flag=True, help="Sum per key and adapter instead.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.option("--csv", "as_csv_", is_flag=True, help="Print CSV with a header line.")
def usage(
    tenant: str | None,
    since: datetime | None,
    until: datetime | None,
    by: str,
    per_key: bool,
    as_json: bool,
    as_csv_: bool,
    config: Path | None,
    **flags: Any,
) -> None:
    """Show tokens, KV block-seconds, times and cost of TENANT, or of all tenants, per adapter and version."""
    if as_json and as_csv_:
        raise click.UsageError("--json and --csv are two formats: give only one of them.")
    rows = administration(config, **flags).usage(tenant, since, until, by, per_key=per_key)
    if as_csv_:
        from server.api.admin.billing.usage import as_csv
        from server.usage.aggregation import COLUMNS, KEY_COLUMNS

        click.echo(as_csv(rows, KEY_COLUMNS if per_key else COLUMNS), nl=False)
    elif as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        click.echo(_table(rows, per_key=per_key) if rows else "none")


#: Short column titles, so that a row fits a terminal.
_TITLES = {
    "prompt_tokens": "prompt", "cached_tokens": "cached", "generated_tokens": "generated",
    "kv_block_seconds": "block-s",
}  # fmt: skip


def _table(rows: Sequence[Mapping[str, object]], *, per_key: bool) -> str:
    """Aligned columns that are never cut, and the cost of all rows; numbers are aligned to the right."""
    lines = [[_TITLES.get(name, name) for name in rows[0]]]
    lines += [[str(value).removesuffix(":00+00:00") for value in row.values()] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    texts = 4 if per_key else 3  # from, tenant, adapter or from, tenant, key, adapter
    total = sum(Decimal(str(row["cost"])) for row in rows)
    table = "\n".join(
        "  ".join(
            cell.ljust(width) if i < texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
    return f"{table}\n{total:,.2f} {rows[0]['currency']} in total"
