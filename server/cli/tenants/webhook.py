"""`loragate webhook`: changes the database, whether the server runs or not; a running server sends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from adapters.billing.webhooks import WebhookEvent
from server.cli.options import STORAGE_FIELDS, settings_options
from server.cli.storage import operator_at_shell, show, storage_settings, with_registry

_EVENTS = [event.value for event in WebhookEvent if event is not WebhookEvent.TEST]


@click.group()
def webhook() -> None:
    """Webhooks: who is told of used budgets, rollbacks and trouble of the engine."""


@settings_options(*STORAGE_FIELDS, "webhook_networks")
@webhook.command()
@click.argument("url")
@click.option(
    "--event",
    "events",
    type=click.Choice(_EVENTS),
    multiple=True,
    help="What to tell; repeat for several.  [default: all, with --tenant all of the tenant's]",
)
@click.option("--tenant", help="Tell only what concerns this tenant.")
def add(url: str, events: tuple[str, ...], tenant: str | None, config: Path | None, **flags: Any) -> None:
    """Add a webhook, and print once the secret with which its messages are signed."""
    from server.background.webhook_destinations import check_url
    from server.config.combinations import networks_of

    settings = storage_settings(config, flags)
    checked = check_url(url, networks_of(settings))
    chosen = events or tuple(event for event in _EVENTS if not (tenant and event.startswith("engine.")))
    made = with_registry(
        settings,
        lambda r: r.webhooks.add(
            checked, [WebhookEvent(event) for event in chosen], by=operator_at_shell(), tenant=tenant
        ),
    )
    click.echo(made.secret)
    click.echo(f"id {made.id}; this is the only time the secret is shown", err=True)


@settings_options(*STORAGE_FIELDS)
@webhook.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(as_json: bool, config: Path | None, **flags: Any) -> None:
    """List all webhooks, without their secrets."""
    found = with_registry(storage_settings(config, flags), lambda r: r.webhooks.list())
    rows = [
        {
            "id": row.id,
            "url": row.url,
            "events": list(row.events) if as_json else ",".join(row.events),
            "tenant": row.tenant,
        }
        for row in found
    ]
    show(rows, as_json=as_json)


@settings_options(*STORAGE_FIELDS)
@webhook.command()
@click.argument("webhook_id")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def messages(webhook_id: str, as_json: bool, config: Path | None, **flags: Any) -> None:
    """List the newest messages to a webhook, with how sending them went."""
    found = with_registry(storage_settings(config, flags), lambda r: r.webhooks.messages(webhook_id))
    names = ("id", "event", "created_at", "attempts", "next_attempt_at", "sent_at", "last_error")
    show([{name: getattr(row, name) for name in names} for row in found], as_json=as_json)


@settings_options(*STORAGE_FIELDS)
@webhook.command()
@click.argument("webhook_id")
def test(webhook_id: str, config: Path | None, **flags: Any) -> None:
    """Let a running server send the message `webhook.test`."""
    message = with_registry(storage_settings(config, flags), lambda r: r.webhooks.test(webhook_id))
    click.echo(f"Wrote {message.id}; see `loragate webhook messages {webhook_id}`.")


@settings_options(*STORAGE_FIELDS)
@webhook.command()
@click.argument("webhook_id")
def remove(webhook_id: str, config: Path | None, **flags: Any) -> None:
    """Remove a webhook, and the messages that wait for it."""
    with_registry(
        storage_settings(config, flags), lambda r: r.webhooks.remove(webhook_id, by=operator_at_shell())
    )
    click.echo(f"Removed webhook {webhook_id}.")
