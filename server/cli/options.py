"""Command-line options made from the fields of `Settings`: one name, one meaning, one help text."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from server.config.settings import Settings

#: Fields that the commands beside `serve` need to find data and database.
STORAGE_FIELDS = ("data_dir", "database_url", "demo")


def settings_options(*names: str) -> Callable[[click.Command], click.Command]:
    """Add the flags of these fields (all of them when none is named), and `--config`."""

    def add(command: click.Command) -> click.Command:
        wanted = names or tuple(Settings.model_fields)
        command.params += [_option(name, Settings.model_fields[name]) for name in wanted]
        command.params.append(
            click.Option(
                ["--config"],
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="TOML file with settings; flags and environment variables win.",
            )
        )
        return command

    return add


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Only the flags that were really given: the others must not hide the environment or the file."""
    return {name: value for name, value in values.items() if value is not None}


def _option(name: str, field: FieldInfo) -> click.Option:
    flag = f"--{name.replace('_', '-')}"
    kind = _plain(field.annotation)
    text = f"{field.description}{_default_text(field)}"
    if kind is bool:
        return click.Option([flag], is_flag=True, default=None, help=text)
    return click.Option([flag], type=_click_type(kind), default=None, help=text)


def _default_text(field: FieldInfo) -> str:
    if field.default in (None, "", {}, False):
        return ""
    return f"  [default: {field.default}]"


def _plain(annotation: Any) -> Any:
    """The type without `Annotated` and `| None`."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return _plain(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def _click_type(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return _IntChoice(choices) if isinstance(choices[0], int) else click.Choice([str(c) for c in choices])
    if kind is Path:
        return click.Path(path_type=Path)
    return {int: click.INT, float: click.FLOAT}.get(kind, click.STRING)


class _IntChoice(click.Choice[int]):
    """One of a few whole numbers."""

    def __init__(self, choices: tuple[int, ...]) -> None:
        super().__init__(choices)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number, not its text."""
        return int(super().convert(str(value), param, ctx))
