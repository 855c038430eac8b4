"""`loragate tenant`: changes the database, whether the server runs or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from adapters.models import Tenant
from adapters.tenant_settings import TenantSettings
from server.cli.options import STORAGE_FIELDS, settings_options
from server.cli.storage import operator_at_shell, show, storage_settings, with_registry
from server.cli.tenants.limit_options import changes_of, limit_options, unlimited_option
from server.cli.tenants.usage import usage
from server.config.settings import Settings
from server.fairness.shares import check_guarantees

#: Settings that have a flag: those with a help text.
_FLAGS = {name: field for name, field in TenantSettings.model_fields.items() if field.description}


@click.group()
def tenant() -> None:
    """Tenants: their shares, limits and usage."""


tenant.add_command(usage)


@settings_options(*STORAGE_FIELDS)
@tenant.command()
@click.argument("name")
@limit_options(_FLAGS)
def add(name: str, config: Path | None, **flags: Any) -> None:
    """Add a tenant."""
    settings, values = _split(config, flags)
    added = with_registry(
        settings,
        lambda r: r.tenants.add(
            Tenant(name, TenantSettings.parse(values)), by=operator_at_shell(), check=check_guarantees
        ),
    )
    click.echo(f"Added tenant {added.name}. Create a key for it with `loragate key add {added.name}`.")


@settings_options(*STORAGE_FIELDS)
@tenant.command("set")
@click.argument("name")
@limit_options(_FLAGS)
@unlimited_option
def set_(name: str, unlimited: tuple[str, ...], config: Path | None, **flags: Any) -> None:
    """Change a tenant's shares and limits; running servers apply them within half a second."""
    settings, values = _split(config, flags)
    changes = changes_of(values, unlimited)
    with_registry(
        settings, lambda r: r.tenants.set(name, changes, by=operator_at_shell(), check=check_guarantees)
    )
    click.echo(f"Changed tenant {name}.")


@settings_options(*STORAGE_FIELDS)
@tenant.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(as_json: bool, config: Path | None, **flags: Any) -> None:
    """List all tenants."""
    settings, _ = _split(config, flags)
    rows = with_registry(settings, lambda r: r.tenants.list())
    show([_row(row, full=as_json) for row in rows], as_json=as_json)


@settings_options(*STORAGE_FIELDS)
@tenant.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list with one entry.")
def show_(name: str, as_json: bool, config: Path | None, **flags: Any) -> None:
    """Show one tenant."""
    settings, _ = _split(config, flags)
    row = _row(with_registry(settings, lambda r: r.tenants.get(name)), full=True)
    if as_json:
        show([row], as_json=True)
    else:
        show([{"setting": key, "value": value} for key, value in row.items()], as_json=False)


@settings_options(*STORAGE_FIELDS)
@tenant.command()
@click.argument("name")
@click.confirmation_option(prompt="Remove the tenant with its keys?")
def remove(name: str, config: Path | None, **flags: Any) -> None:
    """Remove a tenant and its keys; its adapters must be removed first."""
    settings, _ = _split(config, flags)
    with_registry(settings, lambda r: r.tenants.remove(name, by=operator_at_shell()))
    click.echo(f"Removed tenant {name}.")


def _split(config: Path | None, flags: dict[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """The settings of the database, and those of the tenant that were given."""
    values = {name: flags.pop(name) for name in list(flags) if name in _FLAGS}
    return storage_settings(config, flags), {name: v for name, v in values.items() if v is not None}


def _row(tenant_record: Tenant, *, full: bool) -> dict[str, Any]:
    row = tenant_record.as_dict()
    return row if full else {name: row[name] for name in ("name", *_FLAGS)}
