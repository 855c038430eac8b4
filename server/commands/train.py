"""`loragate train`: the flags are the fields of `TrainingConfig`."""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_type_hints

import click

import demo
from adapters.training.config import TrainingConfig, help_of


class _JsonObject(click.ParamType):  # type: ignore[type-arg]  # generic in click's stubs only
    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A JSON object."""
        if isinstance(value, dict):
            return value
        try:
            decoded = json.loads(value)
        except json.JSONDecodeError as error:
            self.fail(f"not JSON: {error}", param, ctx)
        if not isinstance(decoded, dict):
            self.fail("must be a JSON object", param, ctx)
        return decoded


def _option(field: Field[Any], hint: Any) -> click.Option:
    flag = f"--{field.name.replace('_', '-')}"
    text = help_of(field.name)
    required = field.default is MISSING and field.default_factory is MISSING
    default = None if field.default in (MISSING, None) else field.default
    shared: dict[str, Any] = {"help": text, "required": required}
    if hint is bool:
        return click.Option([flag], is_flag=True, default=bool(default), help=text)
    if field.name == "base":
        return click.Option(
            [flag], type=str, metavar="DIR|demo", help=f"{text} `demo` is the embedded one.", required=True
        )
    if hint in (Path, Path | None):
        return click.Option([flag], type=click.Path(path_type=Path), **shared)
    if hint == dict[str, Any]:
        return click.Option([flag], type=_JsonObject(), default=None, **shared)
    if hint == tuple[str, ...]:
        return click.Option([flag], default=",".join(default or ()), show_default=True, **shared)
    kind = {int: click.INT, float: click.FLOAT}.get(hint, click.STRING)
    return click.Option([flag], type=kind, default=default, show_default=default is not None, **shared)


@click.command()
def train(**flags: Any) -> None:
    """Train an adapter from a JSONL of chats; the folder it writes is served as it is."""
    from adapters.training.errors import TrainingError
    from adapters.training.run import train as run_training

    if flags["base"] == "demo":
        flags["base"] = demo.MODEL_DIR
    flags["base"] = Path(flags["base"])
    flags["targets"] = tuple(part.strip() for part in flags["targets"].split(",") if part.strip())
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        report = run_training(TrainingConfig(**given))
    except (TrainingError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(report.document))


_HINTS = get_type_hints(TrainingConfig)
train.params += [_option(field, _HINTS[field.name]) for field in fields(TrainingConfig)]
