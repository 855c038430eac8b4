"""`loragate migrate`: changes the database, whether the server runs or not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from server.cli.options import STORAGE_FIELDS, settings_options
from server.cli.storage import storage_settings


@settings_options(*STORAGE_FIELDS)
@click.command()
def migrate(config: Path | None, **flags: Any) -> None:
    """Update the database's schema to this version. Back up the database first."""
    from adapters.registry import migrate as migrate_schema

    settings = storage_settings(config, flags)
    revision = asyncio.run(migrate_schema(settings.registry_url))
    click.echo(f"The database has revision {revision}.")
