"""`loragate bench` runs `python -m benchmarks`."""

from __future__ import annotations

import subprocess
import sys

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Run a benchmark in a process of its own."""
    # A process and not an import, because the server must not import the benchmarks.
    command = [sys.executable, "-m", "benchmarks", *arguments]
    raise SystemExit(subprocess.call(command))  # noqa: S603
