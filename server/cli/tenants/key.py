"""`loragate key`: on a running server with `--url`, otherwise in the database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from adapters.models import Role
from adapters.tenant_settings import NO_KEY_LIMITS, KeyLimits
from server.cli.storage import show
from server.cli.tenants.administration import Row, admin_options, administration
from server.cli.tenants.limit_options import changes_of, limit_options, unlimited_option

_EXPIRY = click.option(
    "--expires-in-days", type=click.FloatRange(min=0, min_open=True), help="Days until it expires."
)


@click.group()
def key() -> None:
    """API keys: shown once, stored as a hash."""


@admin_options
@key.command()
@click.argument("tenant", required=False)
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.INFERENCE.value,
    show_default=True,
    help="inference calls models; tenant_admin also manages its tenant's adapters; operator manages all.",
)
@click.option("--model", "models", multiple=True, help="Allow only this model; repeat for several models.")
@_EXPIRY
@click.option("--note", default="", help="Purpose of the key, for `loragate key list`.")
@limit_options(KeyLimits.model_fields)
def add(
    tenant: str | None,
    role: str,
    models: tuple[str, ...],
    expires_in_days: float | None,
    note: str,
    config: Path | None,
    **flags: Any,
) -> None:
    """Create a key for TENANT, or for an operator (no tenant, --role operator), and print it once."""
    limits = _limits_in(flags)
    fields = {
        "tenant": tenant,
        "role": role,
        "models": list(models) or None,
        "expires_at": _in_days(expires_in_days),
        "note": note,
        "limits": {name: value for name, value in limits.items() if value is not None},
    }
    _print_issued(administration(config, **flags).add_key(fields))


@admin_options
@key.command("set")
@click.argument("key_id")
@click.option("--model", "models", multiple=True, help="Allow only this model; repeat for several models.")
@click.option("--all-models", is_flag=True, help="Allow all models of the tenant.")
@_EXPIRY
@click.option("--never-expires", is_flag=True, help="Remove the expiry.")
@click.option("--note", help="Purpose of the key.")
@limit_options(KeyLimits.model_fields)
@unlimited_option
def set_(
    key_id: str,
    models: tuple[str, ...],
    all_models: bool,
    expires_in_days: float | None,
    never_expires: bool,
    note: str | None,
    unlimited: tuple[str, ...],
    config: Path | None,
    **flags: Any,
) -> None:
    """Change what a key may call, when it expires, or its limits; running servers apply it within half a second."""
    if (models and all_models) or (expires_in_days and never_expires):
        raise click.UsageError("Two options contradict each other; give one of them.")
    changes: Row = {} if note is None else {"note": note}
    if models or all_models:
        changes["models"] = list(models) or None
    if expires_in_days or never_expires:
        changes["expires_at"] = _in_days(expires_in_days)
    limits = changes_of(_limits_in(flags), unlimited)
    if not (changes or limits):
        raise click.UsageError("Nothing to change; give at least one option, for example --never-expires.")
    changes |= limits
    administration(config, **flags).set_key(key_id, changes)
    click.echo(f"changed key {key_id}")


@admin_options
@key.command("list")
@click.argument("tenant", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(tenant: str | None, as_json: bool, config: Path | None, **flags: Any) -> None:
    """List the keys of TENANT, or all keys, without their secrets."""
    rows = administration(config, **flags).keys(tenant)
    show([_row(row) for row in rows], as_json=as_json)


@admin_options
@key.command()
@click.argument("key_id")
@click.option("--in-s", type=click.FloatRange(min=0), default=0.0, help="Seconds until the key is revoked.")
def revoke(key_id: str, in_s: float, config: Path | None, **flags: Any) -> None:
    """Revoke a key; running servers refuse it within half a second."""
    administration(config, **flags).revoke_key(key_id, in_s)
    click.echo(f"revoked key {key_id}")


@admin_options
@key.command()
@click.argument("key_id")
@click.option(
    "--overlap-s", type=click.FloatRange(min=0), default=0.0, help="Seconds until the old key is revoked."
)
def rotate(key_id: str, overlap_s: float, config: Path | None, **flags: Any) -> None:
    """Create a key with the same rights and limits, print it once, and revoke the old key."""
    _print_issued(administration(config, **flags).rotate_key(key_id, overlap_s))


def _in_days(days: float | None) -> str | None:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat() if days else None


def _print_issued(issued: Row) -> None:
    click.echo(issued["secret"])
    click.echo(f"id {issued['id']}; this is the only time the key is shown", err=True)


def _row(record: Row) -> Row:
    columns = ("id", "tenant", "role", "prefix", "models", "expires_at", "revoked_at", "note")
    models = record["models"]
    limits, unset = record["limits"], NO_KEY_LIMITS.model_dump(mode="json")
    return {name: record[name] for name in columns} | {
        "models": ",".join(models) if models is not None else None,
        "limits": {name: value for name, value in limits.items() if value != unset.get(name)} or None,
    }


def _limits_in(flags: dict[str, Any]) -> dict[str, Any]:
    """Take the limits out of the flags."""
    return {name: flags.pop(name) for name in KeyLimits.model_fields}
