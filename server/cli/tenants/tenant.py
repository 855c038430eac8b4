"""`loragate tenant`: on a running server with `--url`, otherwise in the database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from adapters.tenant_settings import TenantSettings
from server.cli.storage import show
from server.cli.tenants.administration import Administration, Row, admin_options, administration
from server.cli.tenants.limit_options import changes_of, limit_options, unlimited_option
from server.cli.tenants.usage import usage

#: Settings that have a flag: those with a help text.
_FLAGS = {name: field for name, field in TenantSettings.model_fields.items() if field.description}


@click.group()
def tenant() -> None:
    """Tenants: their shares, limits and usage."""


tenant.add_command(usage)


@admin_options
@tenant.command()
@click.argument("name")
@limit_options(_FLAGS)
def add(name: str, config: Path | None, **flags: Any) -> None:
    """Add a tenant."""
    admin, values = _split(config, flags)
    admin.add_tenant(name, values)
    click.echo(f"Added tenant {name}. Create a key for it with `loragate key add {name}`.")


@admin_options
@tenant.command("set")
@click.argument("name")
@limit_options(_FLAGS)
@unlimited_option
def set_(name: str, unlimited: tuple[str, ...], config: Path | None, **flags: Any) -> None:
    """Change a tenant's shares and limits; running servers apply them within half a second."""
    admin, values = _split(config, flags)
    changes = changes_of(values, unlimited)
    if not changes:
        raise click.UsageError("Nothing to change; name at least one setting, for example --rpm 60.")
    admin.set_tenant(name, changes)
    click.echo(f"Changed tenant {name}.")


@admin_options
@tenant.command()
@click.argument("name")
@click.option("--share", type=float, help="Part of the requests, above 0 and up to 1.  [default: 1.0]")
@click.option(
    "--pattern", "patterns", multiple=True, help="Also replace what this regular expression matches."
)
@click.option(
    "--off", is_flag=True, help="Keep no more records; files that there are stay until they are old."
)
def records(
    name: str,
    share: float | None,
    patterns: tuple[str, ...],
    off: bool,
    config: Path | None,
    **flags: Any,
) -> None:
    """Keep a tenant's requests and answers for training, redacted, where the server's --records says.

    With --url, a key of the tenant's own admin is enough.
    """
    if off and (patterns or share is not None):
        raise click.UsageError("--off goes with neither --share nor --pattern.")
    admin, _ = _split(config, flags)
    kept = 1.0 if share is None else share
    admin.set_records(name, None if off else {"share": kept, "patterns": list(patterns)})
    told = "No more requests" if off else f"{kept:.3g} of the requests"
    click.echo(f"{told} of tenant {name} are kept.")


@admin_options
@tenant.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(as_json: bool, config: Path | None, **flags: Any) -> None:
    """List all tenants, and the share of the KV cache that is not guaranteed to any."""
    admin, _ = _split(config, flags)
    rows = admin.tenants()
    show(rows if as_json else [_short(row) for row in rows], as_json=as_json)
    if rows and not as_json:
        guaranteed = sum(row["kv_guarantee"] for row in rows)
        click.echo(f"{guaranteed:.3g} of the KV cache is guaranteed; {1 - guaranteed:.3g} is free.", err=True)


@admin_options
@tenant.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list with one entry.")
def show_(name: str, as_json: bool, config: Path | None, **flags: Any) -> None:
    """Show one tenant."""
    admin, _ = _split(config, flags)
    row = admin.tenant(name)
    if as_json:
        show([row], as_json=True)
    else:
        show([{"setting": key, "value": value} for key, value in row.items()], as_json=False)


@admin_options
@tenant.command()
@click.argument("name")
@click.confirmation_option(prompt="Remove the tenant with its keys?")
def remove(name: str, config: Path | None, **flags: Any) -> None:
    """Remove a tenant and its keys; its adapters must be removed first."""
    admin, _ = _split(config, flags)
    admin.remove_tenant(name)
    click.echo(f"Removed tenant {name}.")


def _split(config: Path | None, flags: dict[str, Any]) -> tuple[Administration, dict[str, Any]]:
    """Where to do it, and the settings of the tenant that were given."""
    values = {name: flags.pop(name) for name in list(flags) if name in _FLAGS}
    return administration(config, **flags), {name: v for name, v in values.items() if v is not None}


def _short(row: Row) -> Row:
    return {name: row[name] for name in ("name", *_FLAGS)}
