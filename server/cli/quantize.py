"""`loragate quantize`: writes a 4-bit AWQ checkpoint that serves the same adapters."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import click

import demo

if TYPE_CHECKING:
    from adapters.training.quantization.quantize import QuantizationReport


@click.command()
@click.argument("model")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write to."
)
@click.option(
    "--calibration",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSONL file with `messages` or `text` in each line; a fifth is held out for evaluation.  "
    "[default: texts that the model generates]",
)
@click.option(
    "--group-size",
    type=click.Choice(["32", "64", "128"]),
    default="128",
    show_default=True,
    help="Number of inputs that share a scale and a zero point.",
)
@click.option(
    "--block-tokens",
    type=click.IntRange(min=16),
    default=512,
    show_default=True,
    help="Length of a calibration sequence, in tokens.",
)
@click.option(
    "--blocks",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Maximum number of calibration sequences.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def quantize(
    model: str,
    out: Path,
    calibration: Path | None,
    group_size: str,
    block_tokens: int,
    blocks: int,
    as_json: bool,
) -> None:
    """Write MODEL (a folder, `demo`, or a hub id) to --out, with its projections in 4 bits."""
    from adapters.training.errors import TrainingError
    from adapters.training.quantization.quantize import Quantization
    from adapters.training.quantization.quantize import quantize as run

    request = Quantization(_folder(model), out, calibration, int(group_size), block_tokens, blocks)
    try:
        report = run(request, _Progress())
    except TrainingError as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(asdict(report)) if as_json else _text(report, out))


class _Progress:
    """Prints what a quantization does, and the time that is left of a stage whose length is known."""

    def __init__(self) -> None:
        self._began: tuple[str, int, float] | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Print one line."""
        from adapters.training.monitoring.progress import time_left

        if not total:
            click.echo(f"{stage} …", err=True)
            return
        if self._began is None or self._began[0] != stage:
            self._began = stage, done, monotonic()
        _, first, since = self._began
        left = time_left(done - first, total - first, monotonic() - since)
        click.echo(f"{stage} {done} of {total}  {left}".rstrip(), err=True)


def _folder(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if model == "demo":
        return demo.MODEL_DIR
    if Path(model).expanduser().is_dir():
        return Path(model).expanduser()
    try:
        return Path(snapshot_download(model))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise click.ClickException(
            f"{model} is neither a folder nor a model on the hub. Give a folder, `demo`, or a hub id."
        ) from error


def _text(report: QuantizationReport, out: Path) -> str:
    change = report.perplexity_after / report.perplexity_before - 1
    return "\n".join(
        [
            f"wrote {out}",
            f"  weights     {report.bytes_before:,} -> {report.bytes_after:,} bytes",
            f"  perplexity  {report.perplexity_before:.4f} -> {report.perplexity_after:.4f} ({change:+.2%}), on "
            f"{report.held_out_texts} held-out texts",
            f"  calibrated  with {report.calibration_tokens:,} tokens",
            f"Serve it with: loragate serve --model {out} --quantization awq",
        ]
    )
