"""Flags for the settings of tenants and the limits of keys, made from their models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import click
from pydantic.fields import FieldInfo

from adapters.tenant_settings import BudgetPeriod
from server.cli.options import plain_type


def limit_options(fields: Mapping[str, FieldInfo]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a flag for each field; its value is None where the flag was not given."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for name, field in reversed(list(fields.items())):
            flag = f"--{name.replace('_', '-')}"
            command = click.option(flag, type=_flag_type(field), help=field.description)(command)
        return command

    return add


def unlimited_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--unlimited LIMIT`."""
    return click.option(
        "--unlimited", multiple=True, metavar="LIMIT", help="Remove a limit, for example --unlimited rpm."
    )(command)


def changes_of(values: Mapping[str, Any], unlimited: tuple[str, ...]) -> dict[str, Any]:
    """The changes that the flags ask for."""
    given = {name: value for name, value in values.items() if value is not None}
    return given | dict.fromkeys((limit.replace("-", "_") for limit in unlimited), None)


def _flag_type(field: FieldInfo) -> Any:
    kind = plain_type(field.annotation)
    if kind is BudgetPeriod:
        return click.Choice([period.value for period in BudgetPeriod])
    return str if kind is Decimal else kind
