"""`loragate key`: changes the database, whether the server runs or not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from adapters.models import IssuedKey, Key, Role
from adapters.tenant_settings import KeyLimits
from server.cli.options import STORAGE_FIELDS, settings_options
from server.cli.storage import operator_at_shell, show, storage_settings, with_registry
from server.cli.tenants.limit_options import changes_of, limit_options, unlimited_option


@click.group()
def key() -> None:
    """API keys: shown once, stored as a hash."""


@settings_options(*STORAGE_FIELDS)
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
@click.option("--expires-in-days", type=click.FloatRange(min=0, min_open=True), help="Days until it expires.")
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
    expires_at = datetime.now(UTC) + timedelta(days=expires_in_days) if expires_in_days else None
    issued = with_registry(
        storage_settings(config, flags),
        lambda r: r.keys.issue(
            tenant,
            Role(role),
            by=operator_at_shell(),
            models=models or None,
            expires_at=expires_at,
            note=note,
            limits=KeyLimits.parse({name: value for name, value in limits.items() if value is not None}),
        ),
    )
    _print_issued(issued)


@settings_options(*STORAGE_FIELDS)
@key.command("list")
@click.argument("tenant", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(tenant: str | None, as_json: bool, config: Path | None, **flags: Any) -> None:
    """List the keys of TENANT, or all keys, without their secrets."""
    rows = with_registry(storage_settings(config, flags), lambda r: r.keys.list(tenant))
    show([_row(row) for row in rows], as_json=as_json)


@settings_options(*STORAGE_FIELDS)
@key.command("set")
@click.argument("key_id")
@limit_options(KeyLimits.model_fields)
@unlimited_option
def set_(key_id: str, unlimited: tuple[str, ...], config: Path | None, **flags: Any) -> None:
    """Change the limits of a key, which hold beside those of its tenant; running servers apply them at once."""
    changes = changes_of(_limits_in(flags), unlimited)
    with_registry(
        storage_settings(config, flags), lambda r: r.keys.set_limits(key_id, changes, by=operator_at_shell())
    )
    click.echo(f"Changed key {key_id}.")


@settings_options(*STORAGE_FIELDS)
@key.command()
@click.argument("key_id")
@click.option("--in-s", type=click.FloatRange(min=0), default=0.0, help="Seconds until the key is revoked.")
def revoke(key_id: str, in_s: float, config: Path | None, **flags: Any) -> None:
    """Revoke a key; running servers refuse it within half a second."""
    with_registry(
        storage_settings(config, flags), lambda r: r.keys.revoke(key_id, by=operator_at_shell(), in_s=in_s)
    )
    click.echo(f"revoked key {key_id}")


@settings_options(*STORAGE_FIELDS)
@key.command()
@click.argument("key_id")
@click.option(
    "--overlap-s", type=click.FloatRange(min=0), default=0.0, help="Seconds until the old key is revoked."
)
def rotate(key_id: str, overlap_s: float, config: Path | None, **flags: Any) -> None:
    """Create a key with the same rights and limits, print it once, and revoke the old key."""
    issued = with_registry(
        storage_settings(config, flags),
        lambda r: r.keys.rotate(key_id, by=operator_at_shell(), overlap_s=overlap_s),
    )
    _print_issued(issued)


def _print_issued(issued: IssuedKey) -> None:
    click.echo(issued.secret)
    click.echo(f"id {issued.key.id}; this is the only time the key is shown", err=True)


def _row(record: Key) -> dict[str, Any]:
    columns = ("id", "tenant", "role", "prefix", "models", "expires_at", "revoked_at", "note")
    row = {name: getattr(record, name) for name in columns}
    return row | {
        "role": record.role.value,
        "models": ",".join(record.models) if record.models is not None else None,
        "limits": record.limits.model_dump(mode="json", exclude_defaults=True) or None,
    }


def _limits_in(flags: dict[str, Any]) -> dict[str, Any]:
    """Take the limits out of the flags."""
    return {name: flags.pop(name) for name in KeyLimits.model_fields}
