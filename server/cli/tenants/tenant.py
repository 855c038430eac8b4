"""`loragate tenant`: changes the database, whether the server runs or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from adapters.models import Tenant
from server.cli.options import STORAGE_FIELDS, settings_options
from server.cli.storage import operator_at_shell, show, storage_settings, with_registry
from server.cli.tenants.usage import usage

_LIMITS: dict[str, tuple[Any, str]] = {
    "weight": (float, "Share of the engine's time against other tenants."),
    "kv_guarantee": (float, "Share of the KV cache it always gets when it has work (0 to 1)."),
    "kv_limit": (float, "Share of the KV cache it never exceeds (0 to 1)."),
    "max_concurrency": (int, "Most sequences at the same time."),
    "rpm": (int, "Most requests per minute."),
    "tpm": (int, "Most tokens per minute."),
    "token_budget": (int, "Most tokens per --budget-period."),
    "budget_period": (click.Choice(["day", "month"]), "Period of --token-budget."),
}


def _limit_options(command: Callable[..., None]) -> Callable[..., None]:
    for name, (kind, text) in reversed(_LIMITS.items()):
        command = click.option(f"--{name.replace('_', '-')}", type=kind, default=None, help=text)(command)
    return command


@click.group()
def tenant() -> None:
    """Tenants: their shares, limits and usage."""


tenant.add_command(usage)


@settings_options(*STORAGE_FIELDS)
@tenant.command()
@click.argument("name")
@_limit_options
def add(name: str, config: Path | None, **flags: Any) -> None:
    """Add a tenant."""
    settings, limits = _split(config, flags)
    added = with_registry(
        settings, lambda r: r.tenants.add(Tenant(name, **limits), by=operator_at_shell(), check=_check_shares)
    )
    click.echo(f"added tenant {added.name}; create a key with `loragate key add {added.name}`")


@settings_options(*STORAGE_FIELDS)
@tenant.command("set")
@click.argument("name")
@_limit_options
@click.option(
    "--unlimited", multiple=True, metavar="LIMIT", help="Remove a limit, for example --unlimited rpm."
)
def set_(name: str, unlimited: tuple[str, ...], config: Path | None, **flags: Any) -> None:
    """Change a tenant's shares and limits; running servers apply them within half a second."""
    settings, limits = _split(config, flags)
    changes = limits | dict.fromkeys((limit.replace("-", "_") for limit in unlimited), None)
    if not changes:
        raise click.UsageError("There is nothing to change: give at least one limit.")
    with_registry(
        settings, lambda r: r.tenants.set(name, changes, by=operator_at_shell(), check=_check_shares)
    )
    click.echo(f"changed tenant {name}")


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
    click.echo(f"removed tenant {name}")


def _check_shares(tenants: Sequence[Tenant]) -> None:
    from server.api.admin.tenants import check_shares

    check_shares(tenants)


def _split(config: Path | None, flags: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    limits = {name: flags.pop(name) for name in list(flags) if name in _LIMITS}
    return storage_settings(config, flags), {
        name: value for name, value in limits.items() if value is not None
    }


def _row(tenant_record: Tenant, *, full: bool) -> Mapping[str, Any]:
    row = asdict(tenant_record)
    return row if full else {name: row[name] for name in ("name", *_LIMITS)}
