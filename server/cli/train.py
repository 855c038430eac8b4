"""`loragate train`: the fields of `TrainingConfig` as flags, a preset for some of them, and publication."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

import demo
from adapters.training.config import FIELDS, TrainingConfig
from adapters.training.presets import PRESETS
from server.cli.adapters.admin_client import AdminClient, ca_cert_option
from server.cli.adapters.publish import Proof, Publication
from server.cli.options import given, model_options
from server.config.config_file import fault_sentences
from server.config.environment import read_variable
from server.config.variables import CLIENT_KEY_VARIABLE, JUDGE_KEY_VARIABLE
from server.engine.process.openmp import set_wait_policy


@click.command()
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="; ".join(f"{name}: {preset.summary}" for name, preset in PRESETS.items())
    + ". Other flags override it.",
)
@click.option(
    "--check",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Check FILE as training data and print the findings; nothing is trained. May be given several times. "
    "Exit code 1 if a check fails.",
)
@click.option("--json", "as_json", is_flag=True, help="With --check: print the findings as JSON.")
@click.option("--publish", metavar="URL", help="Server that gets the finished adapter as a new version.")
@click.option("--publish-as", metavar="TENANT/NAME", help="The adapter on that server that gets the version.")
@click.option("--canary", type=click.FLOAT, help="Percentage of the traffic for the version.  [default: all]")
@click.option(
    "--evaluate",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Evaluate the published version, and the current one, on these held-out chats before it gets traffic.",
)
@click.option(
    "--evaluate-judge", metavar="NAME", help="With --evaluate: the judge of that server that scores, too."
)
@click.option("--if", "condition", help="With --evaluate: what its figures must meet: 'loss < @current'.")
@click.option(
    "--promote-after",
    type=click.FloatRange(min=0),
    metavar="MINUTES",
    help="With --canary: wait, and promote the version unless it has lost its traffic.",
)
@click.option("--key", help=f"Admin or operator key for --publish. [env: {CLIENT_KEY_VARIABLE}]")
@ca_cert_option
@click.option(
    "--base", metavar="DIR|demo", help=f"{FIELDS['base'].description} `demo` is the embedded model."
)
@click.pass_context
def train(
    context: click.Context,
    /,
    preset: str | None,
    check: tuple[Path, ...],
    as_json: bool,
    publish: str | None,
    publish_as: str | None,
    canary: float | None,
    evaluate: Path | None,
    evaluate_judge: str | None,
    condition: str | None,
    promote_after: float | None,
    key: str | None,
    **flags: Any,
) -> None:
    """Train an adapter from a JSONL file of chats; the server can serve its folder without changes."""
    if check:
        flags = {"base": "demo", "out": Path("unused")} | given(flags) | {"data": check}
        _check(_config(context, preset, flags), as_json)
        return
    config = _config(context, preset, flags)
    proof = Proof(evaluate, condition, promote_after, evaluate_judge)
    publication = _publication(publish, publish_as, canary, key, proof)
    set_wait_policy()  # before torch is imported
    from adapters.training.errors import TrainingError
    from adapters.training.training_run import train as run_training

    try:
        report = run_training(config)
    except (TrainingError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:  # the trainer has told what is left
        raise click.exceptions.Exit(130) from None
    _publish(publication, config.out)
    click.echo(json.dumps(report.document))


def _publish(publication: Publication | None, out: Path) -> None:
    """Publish the finished adapter. Raises: click.ClickException: it is told where the adapter is."""
    if publication is None:
        click.echo(f"Publish it: loragate adapter add TENANT NAME {shlex.quote(str(out))}", err=True)
    else:
        try:
            click.echo(publication.publish(out), err=True)
        except click.ClickException as error:
            raise click.ClickException(
                f"{error.message}\nThe finished adapter is in {out}; `loragate adapter add` uploads it again."
            ) from error


def _publication(
    url: str | None, target: str | None, canary: float | None, key: str | None, proof: Proof
) -> Publication | None:
    """Where the finished adapter goes; checked before the training, so that a wrong key does not waste it."""
    if url is None:
        if target or canary is not None:
            raise click.UsageError("--publish-as and --canary need --publish URL.")
        if proof != Proof():
            raise click.UsageError(
                "--evaluate, --evaluate-judge, --if and --promote-after need --publish URL."
            )
        return None
    if not target:
        raise click.UsageError("--publish needs --publish-as TENANT/NAME.")
    publication = Publication.parse(AdminClient(url, key), target, canary, proof)
    publication.check()
    return publication


def _check(config: TrainingConfig, as_json: bool) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from adapters.training.check import check
    from adapters.training.check.preference_validation import check_preferences, holds_preferences
    from adapters.training.check.render import show
    from adapters.training.data.dataset import load_renderer
    from adapters.training.errors import TrainingError

    try:
        renderer = load_renderer(config)
        look = check
        if len(config.data) == 1 and holds_preferences(config.data[0]):
            config, look = replace(config, data=(), preferences=config.data[0]), check_preferences
        with Progress("{task.description}", console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("reading", total=None)
            report = look(config, renderer, lambda rows: bar.update(task, description=f"{rows:,} rows read"))
    except TrainingError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    else:
        console = Console(soft_wrap=True, highlight=False)
        console.print(f"{config.data_names} as the chat template of {config.base.name} renders it (--base)")
        show(report, renderer, console)
    if not report.passed:
        raise click.exceptions.Exit(1)


def _config(context: click.Context, preset: str | None, flags: Mapping[str, Any]) -> TrainingConfig:
    """The configuration from flags and preset; a flag overrides the preset."""
    values = (PRESETS[preset].values() if preset else {}) | given(flags)
    for name in ("base", "data", "out"):
        if name not in values and not (name == "data" and "preferences" in values):
            raise click.UsageError(f"Missing option '--{name}'.", context)
    values["judge_key"] = values.get("judge_key") or read_variable(JUDGE_KEY_VARIABLE) or ""
    values["base"] = demo.MODEL_DIR if values["base"] == "demo" else Path(values["base"])
    try:
        return TrainingConfig(**values)
    except ValidationError as error:
        raise click.ClickException(fault_sentences(error)) from error


train.params += model_options({name: field for name, field in FIELDS.items() if name != "base"})
