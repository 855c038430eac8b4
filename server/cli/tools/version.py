"""`loragate version`: prints the installed versions."""

from __future__ import annotations

import json
from importlib.metadata import version as version_of

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def version(as_json: bool) -> None:
    """Print the versions of loragate and vLLM."""
    from server.config.versions import vllm_version

    versions = {"loragate": version_of("loragate"), "vllm": vllm_version()}
    click.echo(json.dumps(versions) if as_json else "\n".join(f"{k} {v}" for k, v in versions.items()))
