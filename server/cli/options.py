"""Command-line options made from the fields of a pydantic model: one name, one meaning, one help text."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from server.config.json_settings import parse_object
from server.config.settings import Settings

#: The settings that the commands for tenants, keys and feedback need to find data folder and database.
STORAGE_FIELDS = ("data_dir", "database_url", "demo")


def settings_options(*names: str) -> Callable[[click.Command], click.Command]:
    """Add the flags of these settings (of all when none is named), and `--config`."""
    fields = {name: Settings.model_fields[name] for name in names or Settings.model_fields}

    def add(command: click.Command) -> click.Command:
        command.params += model_options(fields)
        command.params.append(
            click.Option(
                ["--config"],
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="TOML file with settings; flags and environment variables override it.",
            )
        )
        return command

    return add


def model_options(fields: Mapping[str, FieldInfo]) -> list[click.Option]:
    """One option per field of a pydantic model; its value is None where the flag was not given."""
    return [_option(name, field) for name, field in fields.items()]


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Only the flags that were given: the others must not replace values of environment, file or preset."""
    return {name: value for name, value in values.items() if value is not None}


def _option(name: str, field: FieldInfo) -> click.Option:
    flags = [f"--{name.replace('_', '-')}"]
    if isinstance(field.json_schema_extra, dict) and "vllm_flag" in field.json_schema_extra:
        flags.append(str(field.json_schema_extra["vllm_flag"]))
    kind = plain_type(field.annotation)
    text = f"{' '.join(str(field.description).split())}{_default_text(field)}"
    if get_origin(kind) is tuple and plain_type(get_args(kind)[0]) is Path:
        path = click.Path(path_type=Path)
        return click.Option(flags, type=path, multiple=True, default=None, callback=_none_if_empty, help=text)
    return click.Option(flags, type=_click_type(kind), is_flag=kind is bool, default=None, help=text)


def _none_if_empty(_context: click.Context, _option: click.Parameter, value: Any) -> Any:
    """A flag that may be repeated and was not given has no value, as all others."""
    return value or None


def _default_text(field: FieldInfo) -> str:
    default = field.default
    if field.is_required() or field.default_factory or default in (None, "", {}, []) or default is False:
        return ""
    return f"  [default: {','.join(default) if isinstance(default, tuple) else default}]"


def plain_type(annotation: Any) -> Any:
    """The type without `Annotated` and `| None`; text where several are allowed."""
    if get_origin(annotation) is Annotated:
        return plain_type(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return plain_type(parts[0]) if len(parts) == 1 else str
    return annotation


def _click_type(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if get_origin(kind) is dict:
        return JsonObjectParam()
    if get_origin(kind) is list:
        return click.UNPROCESSED  # a JSON list, which the setting itself reads
    if get_origin(kind) is tuple:
        return numbers if plain_type(get_args(kind)[0]) is float else names
    if kind is Path:
        return click.Path(path_type=Path)
    return kind


class JsonObjectParam(click.ParamType):  # type: ignore[type-arg]  # generic in click's stubs only
    """A JSON object."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The decoded object."""
        try:
            return parse_object(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def names(text: str) -> tuple[str, ...]:
    """The names in comma-separated text. click shows this function's name as the metavar."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str) -> tuple[float, ...]:
    """The numbers in comma-separated text. click shows this function's name as the metavar."""
    return tuple(float(part) for part in names(text))
