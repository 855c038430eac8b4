"""Shared code of the commands that read and write the registry directly."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from adapters.errors import AdapterError
from adapters.models import Actor
from server.cli.options import given
from server.config.settings import Settings, load

T = TypeVar("T")
_WIDE = 1000  # characters; piped output is not wrapped
_NEW_DATABASE = (
    "note: this database was empty and has its tables now. A server with another --data-dir or --database-url has a "
    "database of its own, and that of --demo is found with --demo."
)


def storage_settings(config: Path | None, flags: Mapping[str, Any]) -> Settings:
    """The settings of a command that needs data folder and database, but no model."""
    return load(given(dict(flags)), config=config, to_serve=False)


def with_registry(settings: Settings, work: Callable[[Any], Awaitable[T]]) -> T:
    """Run `work(registry)`; an error of the registry becomes one sentence and exit code 1.

    A new database gets its tables, as from `loragate serve`.
    """
    from adapters.registry import Registry, check_schema, connect, migrate
    from adapters.registry.schema.migration import current_revision

    async def run() -> T:
        engine = connect(settings.registry_url)
        try:
            if await current_revision(engine) is None:
                await migrate(settings.registry_url)
                click.echo(_NEW_DATABASE, err=True)
            await check_schema(engine)
            return await work(Registry(engine))
        finally:
            await engine.dispose()

    try:
        return asyncio.run(run())
    except AdapterError as error:
        raise click.ClickException(str(error)) from error


def operator_at_shell() -> Actor:
    """The actor that the audit log shows for a change made with this command line."""
    return Actor(f"shell:{pwd.getpwuid(os.getuid()).pw_name}")


def show(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print rows as a JSON list, or as a table."""
    if as_json:
        click.echo(json.dumps(list(rows), default=str, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    if not rows:
        click.echo("none")
        return
    table = Table(box=None, header_style="bold")
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    for name in columns:
        table.add_column(name, overflow="fold")  # nothing is cut off, however narrow the terminal
    for row in rows:
        table.add_row(*("" if row[name] is None else str(row[name]) for name in columns))
    Console(soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE).print(table)
