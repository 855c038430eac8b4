"""`loragate tenant`, `key`, `usage` and `audit`: on a running server with `--url`, otherwise in the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import click

from server.cli.adapters.admin_client import AdminClient, ca_cert_option
from server.cli.options import STORAGE_FIELDS, given, settings_options
from server.cli.storage import storage_settings
from server.config.environment import read_variable
from server.config.variables import CLIENT_KEY_VARIABLE, CLIENT_URL_VARIABLE

#: A record as the admin API shows it.
Row = dict[str, Any]


class Administration(Protocol):
    """Tenants, keys, usage and the log of changes; every record is as the admin API shows it.

    Raises: click.ClickException, with one sentence; AdapterError: a value is refused.
    """

    def tenants(self) -> list[Row]:
        """All tenants."""

    def tenant(self, name: str) -> Row:
        """One tenant."""

    def add_tenant(self, name: str, settings: Mapping[str, Any]) -> None:
        """Add a tenant with these settings."""

    def set_tenant(self, name: str, changes: Mapping[str, Any]) -> None:
        """Change settings; None removes a limit."""

    def set_records(self, tenant: str, records: Mapping[str, Any] | None) -> None:
        """Keep records of a tenant (`share` and `patterns`); None: keep none."""

    def remove_tenant(self, name: str) -> None:
        """Remove a tenant and its keys."""

    def keys(self, tenant: str | None) -> list[Row]:
        """The keys of a tenant, or all, without secrets."""

    def add_key(self, fields: Mapping[str, Any]) -> Row:
        """Create a key; the record has its `secret`."""

    def set_key(self, key_id: str, changes: Mapping[str, Any]) -> None:
        """Change models, expiry, note or limits of a key; None allows all models, or removes expiry or limit."""

    def revoke_key(self, key_id: str, in_s: float) -> None:
        """Revoke a key in `in_s` seconds."""

    def rotate_key(self, key_id: str, overlap_s: float) -> Row:
        """Create a key with the same rights; the old one ends in `overlap_s` seconds."""

    def usage(
        self,
        tenant: str | None,
        since: datetime | None,
        until: datetime | None,
        by: str,
        *,
        per_key: bool = False,
    ) -> list[Row]:
        """Usage and its cost per period, per version or per key; without `since`, of this month."""

    def audit(self, filters: Mapping[str, Any], limit: int) -> list[Row]:
        """The newest entries that match; `filters` are those of `Audit.list`."""


def admin_options(command: click.Command) -> click.Command:
    """Add `--url`, `--key` and `--ca-cert` of a running server, and the settings that find the database."""
    return admin_options_with()(command)


def admin_options_with(*fields: str) -> Callable[[click.Command], click.Command]:
    """As `admin_options`, with more settings that are used with the database only."""
    return lambda command: _add_options(settings_options(*STORAGE_FIELDS, *fields)(command))


def _add_options(command: click.Command) -> click.Command:
    url = f"URL of a running server, to ask it instead of the database. [env: {CLIENT_URL_VARIABLE}]"
    command.params.append(click.Option(["--url"], default=None, help=url))
    key = f"Operator's key, with --url. [env: {CLIENT_KEY_VARIABLE}]"
    command.params.append(click.Option(["--key"], default=None, help=key))
    changed: click.Command = ca_cert_option(command)
    return changed


def administration(config: Path | None, **flags: Any) -> Administration:
    """The server that `--url` or LORAGATE_URL names; the database, if its settings are given or no server is named.

    Raises: click.UsageError: both are given.
    """
    if client := server_client(config, flags):
        from server.cli.tenants.over_http import ServerAdministration

        return ServerAdministration(client)
    from server.cli.tenants.in_database import DatabaseAdministration

    return DatabaseAdministration(storage_settings(config, flags))


def server_client(config: Path | None, flags: dict[str, Any]) -> AdminClient | None:
    """The client for the server that `--url` or LORAGATE_URL names; None for the database.

    Takes `url` and `key` out of the flags. Raises: click.UsageError: server and database are given.
    """
    url, key = flags.pop("url"), flags.pop("key")
    names_database = bool(config or given(flags))
    if url and names_database:
        raise click.UsageError(
            "--url names a running server, the other options a database; give one of them."
        )
    asks_server = url or (not names_database and read_variable(CLIENT_URL_VARIABLE))
    return AdminClient(url, key) if asks_server else None
