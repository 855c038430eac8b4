"""`loragate adapter merge`: one model of a base model and an adapter."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--base", required=True, metavar="DIR|demo", help="The base model's folder, in 16 or 32 bits.")
@click.option(
    "--adapter",
    "folder",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The adapter's folder.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the merged model.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Data type of the merged weights. auto: the base's own.",
)
def merge(base: str, folder: Path, out: Path, dtype: str) -> None:
    """Merge base and adapter into one model, for servers that serve only this adapter."""
    import demo
    from adapters.training.errors import TrainingError
    from adapters.training.model.merge import merge as run_merge

    try:
        message = run_merge(demo.MODEL_DIR if base == "demo" else Path(base), folder, out, dtype)
    except TrainingError as error:
        raise click.ClickException(str(error)) from error
    click.echo(message)
