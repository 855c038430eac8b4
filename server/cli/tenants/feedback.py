"""`loragate feedback`: reads users' feedback from the database, whether the server runs or not."""

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
    """Users' feedback on answers: list it, or export chats for training."""


def _filters(rating: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in (
            click.option(
                "--rating",
                type=click.Choice(_RATINGS),
                default=rating,
                show_default=True,
                help="Only answers with this rating.",
            ),
            click.option("--version", type=int, help="Only this version of --adapter."),
            click.option("--adapter", help="Only this adapter, by its name within the tenant."),
            click.argument("tenant", required=False),
        ):
            command = option(command)
        return command

    return add


@settings_options(*STORAGE_FIELDS)
@feedback.command("list")
@_filters("all")
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="Maximum number of entries."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(limit: int, as_json: bool, **filters: Any) -> None:
    """List the feedback on TENANT's adapters, or on all adapters; the newest first."""
    entries = _read(limit=limit, with_messages=False, **filters)
    show([_row(entry) for entry in entries], as_json=as_json)


@settings_options(*STORAGE_FIELDS)
@feedback.command()
@_filters("up")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write.  [default: stdout]"
)
def export(out: Path | None, **filters: Any) -> None:
    """Write the chats that clients sent with feedback as JSONL for `loragate train`."""
    from server.usage.feedback import training_lines

    lines = list(training_lines(_read(limit=None, with_messages=True, **filters)))
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


def _row(entry: Feedback) -> dict[str, Any]:
    return {
        "at": entry.at.isoformat(timespec="seconds"),
        "tenant": entry.tenant,
        "model": f"{entry.adapter}@{entry.version}" if entry.adapter else "base",
        "rating": entry.rating.value,
        "reason": entry.reason,
        "comment": entry.comment,
        "turns": len(entry.messages or ()),
        "request_id": entry.request_id,
    }
