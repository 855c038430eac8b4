"""`loragate train`: the flags are the fields of `TrainingConfig`, and a few that choose them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_type_hints

import click
from click.core import ParameterSource

import demo
from adapters.training.config import PRESETS, TrainingConfig, help_of
from server.cli.adapters.admin_client import AdminClient
from server.cli.adapters.publish import Publication
from server.config.settings import CLIENT_KEY_VARIABLE, JUDGE_KEY_VARIABLE, client_setting
from server.engine.process.openmp import set_wait_policy


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
    default = None if field.default in (MISSING, None) else field.default
    if hint is bool:
        return click.Option([flag], is_flag=True, default=bool(default), help=text)
    if field.name == "base":
        return click.Option([flag], type=str, metavar="DIR|demo", help=f"{text} `demo` is the embedded one.")
    if hint in (Path, Path | None):
        return click.Option([flag], type=click.Path(path_type=Path), help=text)
    if hint == dict[str, Any]:
        return click.Option([flag], type=_JsonObject(), default=None, help=text)
    if hint == tuple[str, ...]:
        return click.Option([flag], default=",".join(default or ()), show_default=True, help=text)
    kind = {int: click.INT, float: click.FLOAT}.get(hint, click.STRING)
    return click.Option([flag], type=kind, default=default, show_default=default is not None, help=text)


@click.command()
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="; ".join(f"{name}: {preset.summary}" for name, preset in PRESETS.items())
    + ". Flags given beside it win.",
)
@click.option(
    "--check",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Look at a file as a training would, print the check-list, train nothing. Exit 1 if a check fails.",
)
@click.option("--json", "as_json", is_flag=True, help="With --check: print the findings as JSON.")
@click.option("--publish", metavar="URL", help="Server that gets the finished adapter as a new version.")
@click.option("--publish-as", metavar="TENANT/NAME", help="Whose adapter it becomes a version of.")
@click.option("--canary", type=click.FLOAT, help="Percent of the traffic it gets at first; without it: all.")
@click.option("--key", help=f"Admin or operator key for --publish. [env: {CLIENT_KEY_VARIABLE}]")
@click.pass_context
def train(
    context: click.Context,
    /,
    preset: str | None,
    check: Path | None,
    as_json: bool,
    publish: str | None,
    publish_as: str | None,
    canary: float | None,
    key: str | None,
    **flags: Any,
) -> None:
    """Train an adapter from a JSONL of chats; the folder it writes is served as it is."""
    if check:
        given = {"base": "demo", "out": Path("unused")} | {k: v for k, v in flags.items() if v is not None}
        _check(_config(context, preset, given | {"data": check}), as_json)
        return
    config = _config(context, preset, flags)
    publication = _publication(publish, publish_as, canary, key)
    set_wait_policy()  # before torch is imported
    from adapters.training.errors import TrainingError
    from adapters.training.train import train as run_training

    try:
        report = run_training(config)
    except (TrainingError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    if publication:
        try:
            click.echo(publication.publish(config.out), err=True)
        except click.ClickException as error:
            raise click.ClickException(
                f"{error.message}\nThe adapter is finished in {config.out}: `loragate adapter add` sends it again."
            ) from error
    click.echo(json.dumps(report.document))


def _publication(
    url: str | None, target: str | None, canary: float | None, key: str | None
) -> Publication | None:
    """Where the adapter is to go, once it is there; checked now, so that no training is lost to a wrong key."""
    if url is None:
        if target or canary is not None:
            raise click.UsageError("--publish-as and --canary need --publish URL")
        return None
    if not target:
        raise click.UsageError("--publish needs --publish-as TENANT/NAME")
    publication = Publication.parse(AdminClient(url, key), target, canary)
    publication.check()
    return publication


def _check(config: TrainingConfig, as_json: bool) -> None:
    from rich.console import Console

    from adapters.training.check import check
    from adapters.training.check.render import show
    from adapters.training.data.dataset import load_renderer
    from adapters.training.errors import TrainingError

    try:
        renderer = load_renderer(config)
        report = check(config, renderer)
    except TrainingError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    else:
        console = Console(soft_wrap=True, highlight=False)
        console.print(f"{config.data.name} as the chat template of {config.base.name} renders it (--base)")
        show(report, renderer, console)
    if not report.passed:
        raise click.exceptions.Exit(1)


def _config(context: click.Context, preset: str | None, flags: Mapping[str, Any]) -> TrainingConfig:
    """The configuration that the flags ask for: a preset gives way to what was typed."""
    given = {name: value for name, value in flags.items() if value is not None}
    for name in ("base", "data", "out"):
        if name not in given:
            raise click.UsageError(f"Missing option '--{name}'.", context)
    if preset:
        typed = {n for n in flags if context.get_parameter_source(n) is not ParameterSource.DEFAULT}
        given |= {n: v for n, v in PRESETS[preset].values().items() if n not in typed}
    given["judge_key"] = given.get("judge_key") or client_setting(JUDGE_KEY_VARIABLE) or ""
    given["base"] = demo.MODEL_DIR if given["base"] == "demo" else Path(given["base"])
    given["targets"] = tuple(part.strip() for part in given["targets"].split(",") if part.strip())
    try:
        return TrainingConfig(**given)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


_HINTS = get_type_hints(TrainingConfig)
train.params += [_option(field, _HINTS[field.name]) for field in fields(TrainingConfig)]
