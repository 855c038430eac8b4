"""`loragate usage`, also `loragate tenant usage`: reads usage from the database, whether the server runs or not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from server.cli.options import STORAGE_FIELDS, settings_options
from server.cli.storage import storage_settings, with_registry

_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]


@settings_options(*STORAGE_FIELDS, "currency")
@click.command()
@click.argument("tenant", required=False)
@click.option(
    "--from",
    "since",
    type=click.DateTime(_TIMES),
    help="First hour to count, in UTC unless it has a time zone.  [default: start of this month]",
)
@click.option("--to", "until", type=click.DateTime(_TIMES), help="First hour not to count.  [default: now]")
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
    from server.api.admin.billing.usage import as_csv, in_utc, start
    from server.usage.aggregation import COLUMNS, KEY_COLUMNS, UsageSums

    if as_json and as_csv_:
        raise click.UsageError("--json and --csv are two formats: give only one of them.")
    settings = storage_settings(config, flags)

    async def read(registry: Any) -> tuple[Any, Any]:
        entries = registry.usage.of_keys if per_key else registry.usage.list
        found = await entries(since=start(since), until=in_utc(until), tenant=tenant)
        return found, await registry.prices.list()

    entries, prices = with_registry(settings, read)
    sums = UsageSums(by, prices, settings.currency, per_key=per_key)
    sums.add(entries)
    rows = list(sums.rows())
    if as_csv_:
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
