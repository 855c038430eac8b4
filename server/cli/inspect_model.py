"""`loragate inspect`: shows the architecture of a base model, and whether an adapter fits it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from adapters.artifact import BaseShape
    from server.engine.base_model import BaseModel
    from server.planner.shape import ModelShape


@click.command("inspect")
@click.argument("model")
@click.option("--rank", type=click.IntRange(min=1), default=16, show_default=True, help="LoRA rank.")
@click.option(
    "--adapter",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Also check this adapter folder against the model, as the server does; --rank is the maximum rank.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(model: str, rank: int, adapter: Path | None, as_json: bool) -> None:
    """Show MODEL (a folder, `demo`, or a hub id): layers, heads, projections, and the size of a LoRA.

    The Qwen2.5 and Qwen3 dense families are known offline.
    """
    import demo
    from server.planner.models import find_shape

    shape = find_shape(str(demo.MODEL_DIR) if model == "demo" else model)
    facts = _facts(model, shape, rank)
    if adapter is not None:
        facts["adapter"] = _adapter(model, adapter, rank)
    click.echo(json.dumps(facts, indent=2, default=str) if as_json else _text(facts))


def _facts(model: str, shape: ModelShape, rank: int) -> dict[str, Any]:
    sizes = asdict(shape)
    quantization = sizes.pop("quantization")
    return {
        "model": model,
        **sizes,
        "quantization": quantization["method"] if quantization else None,
        "parameters": shape.parameters,
        "kv_bytes_per_token_16_bit": shape.kv_bytes_per_token(2),
        "projections": [
            {
                "name": p.name,
                "shape": [p.outputs, p.inputs],
                "bias": p.bias,
                "parameters": p.parameters,
                "lora_parameters": p.lora_parameters(rank),
            }
            for p in shape.projections
        ],
        "lora_rank": rank,
        "lora_parameters": shape.lora_parameters(rank),
    }


def _adapter(model: str, folder: Path, rank: int) -> dict[str, Any]:
    """The report of the server's check, with warnings about the training; a refusal ends the command."""
    from adapters.artifact import inspect_artifact
    from adapters.artifact.provenance import read_provenance
    from adapters.errors import ArtifactRefused
    from server.engine.base_model import adapter_warnings

    try:
        base, served = _base(model)
        digest = served.rules.base_digest if served else None
        report = inspect_artifact(folder, base=base, max_lora_rank=rank, base_digest=digest)
    except (ArtifactRefused, ValueError) as error:
        raise click.ClickException(f"The adapter cannot be served on {model}: {error}") from error
    # The modules are hundreds of paths; the hints are among the warnings.
    shown = {name: value for name, value in asdict(report).items() if name not in ("modules", "hints")}
    warnings = list(report.hints)
    if served is not None:
        rules = served.rules
        brought = read_provenance(
            folder, report.hints, base_tokens=rules.base_tokens, base_folder=rules.base_folder
        )
        warnings = adapter_warnings(report.training, brought, served)
    return {**shown, "warnings": warnings}


def _base(model: str) -> tuple[BaseShape, BaseModel | None]:
    """The shape that an adapter must fit, and, for a local model, everything that its files say."""
    from adapters.artifact import BaseShape
    from server.config.settings import load
    from server.engine.base_model import read_base_model

    if model != "demo" and not Path(model).expanduser().is_dir():
        return _known_base(model), None
    settings = load({"demo": True} if model == "demo" else {"model": model})
    served = read_base_model(settings)
    return BaseShape.from_config(Path(settings.base_model).expanduser() / "config.json"), served


def _known_base(model: str) -> BaseShape:
    """The shape of a model without local files; `BaseShape` reads a file, so its config is written to one."""
    import tempfile

    from adapters.artifact import BaseShape
    from server.planner.models import find_config

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(find_config(model)), encoding="utf-8")
        return BaseShape.from_config(path)


def _text(facts: dict[str, Any]) -> str:
    lines = [
        f"{facts['model']}: {facts['model_type']}, {facts['parameters']:,} parameters"
        + (f", {facts['quantization']}" if facts["quantization"] else ""),
        f"  layers {facts['layers']}, hidden size {facts['hidden_size']}, heads {facts['heads']}, "
        f"KV heads {facts['kv_heads']}, head size {facts['head_size']}",
        f"  MLP {facts['intermediate_size']}, vocabulary {facts['vocab_size']}, "
        f"{'tied' if facts['tied'] else 'untied'} embeddings, longest context {facts['max_len']}",
        f"  KV cache {facts['kv_bytes_per_token_16_bit']:,} bytes per token in 16 bits",
        "",
        f"  {'projection':<12}{'shape':>16}{'parameters':>14}{'LoRA r=' + str(facts['lora_rank']):>14}   per layer",
    ]
    for row in facts["projections"]:
        size = f"{row['shape'][0]} x {row['shape'][1]}"
        bias = "  with bias" if row["bias"] else ""
        lines.append(
            f"  {row['name']:<12}{size:>16}{row['parameters']:>14,}{row['lora_parameters']:>14,}{bias}"
        )
    lines.append(
        f"A LoRA of rank {facts['lora_rank']} on all of them has {facts['lora_parameters']:,} parameters."
    )
    if "adapter" in facts:
        lines += ["", *_adapter_lines(facts["adapter"])]
    return "\n".join(lines)


def _adapter_lines(report: dict[str, Any]) -> list[str]:
    lines = [
        f"The adapter fits: rank {report['rank']}, alpha {report['alpha']:g}, {report['dtype']}, "
        f"{report['parameters']:,} parameters, {report['size_bytes']:,} bytes",
        f"  on {', '.join(report['target_modules'])}",
    ]
    lines += [f"  warning: {warning}" for warning in report["warnings"]]
    return lines
