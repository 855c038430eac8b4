"""`loragate feedback`: what users said, from the database, whether the server runs or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from server.cli.options import STORAGE_FIELDS, settings_options
from server.cli.storage import show, storage_settings, with_registry

if TYPE_CHECKING:
    from adapters.models import Feedback

_RATINGS = ["up", "down", "all"]


@click.group()
def feedback() -> None:
    """What users said about answers: list it, export chats to train on."""


def _filters(rating: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in (
            click.option(
                "--rating",
                type=click.Choice(_RATINGS),
                default=rating,
                show_default=True,
                help="Only answers that were rated so.",
            ),
            click.option("--version", type=int, help="One version of --adapter."),
            click.option("--adapter", help="One adapter, by its name within the tenant."),
            click.argument("tenant", required=False),
        ):
            command = option(command)
        return command

    return add


@settings_options(*STORAGE_FIELDS)
@feedback.command("list")
@_filters("all")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Newest first.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(limit: int, as_json: bool, **asked: Any) -> None:
    """List what was said to TENANT's adapters, or to all."""
    entries = _read(limit=limit, with_messages=False, **asked)
    show([_row(said) for said in entries], as_json=as_json)


@settings_options(*STORAGE_FIELDS)
@feedback.command()
@_filters("up")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write here, not to stdout.")
def export(out: Path | None, **asked: Any) -> None:
    """Write the chats that were sent along with feedback as JSONL, ready for `loragate train`."""
    from server.usage.feedback import training_lines

    lines = list(training_lines(_read(limit=None, with_messages=True, **asked)))
    if out is None:
        click.echo("".join(lines), nl=False)
    else:
        out.write_text("".join(lines), encoding="utf-8")
        click.echo(f"wrote {len(lines)} chats to {out}")


def _read(
    *,
    tenant: str | None,
    adapter: str | None,
    version: int | None,
    rating: str,
    with_messages: bool,
    limit: int | None,
    config: Path | None,
    **flags: Any,
) -> tuple[Feedback, ...]:
    from adapters.models import Rating

    return with_registry(
        storage_settings(config, flags),
        lambda registry: registry.feedback.list(
            tenant=tenant,
            adapter=adapter,
            version=version,
            rating=None if rating == "all" else Rating(rating),
            with_messages=with_messages,
            limit=limit,
        ),
    )


def _row(said: Feedback) -> dict[str, Any]:
    return {
        "at": said.at.isoformat(timespec="seconds"),
        "tenant": said.tenant,
        "model": f"{said.adapter}@{said.version}" if said.adapter else "base",
        "rating": said.rating.value,
        "reason": said.reason,
        "comment": said.comment,
        "turns": len(said.messages or ()),
        "request_id": said.request_id,
    }
