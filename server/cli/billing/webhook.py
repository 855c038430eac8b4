"""`loragate webhook`: on a running server with `--url`, otherwise in the database; a running server sends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from adapters.billing.webhooks import WebhookEvent
from server.cli.billing.administration import billing_administration
from server.cli.storage import show
from server.cli.tenants.administration import admin_options, admin_options_with

_EVENTS = [event.value for event in WebhookEvent if event is not WebhookEvent.TEST]


@click.group()
def webhook() -> None:
    """Webhooks: who is told of used budgets, rollbacks and trouble of the engine."""


@admin_options_with("webhook_networks")
@webhook.command()
@click.argument("url_of_receiver", metavar="RECEIVER")
@click.option(
    "--event",
    "events",
    type=click.Choice(_EVENTS),
    multiple=True,
    help="What to tell; repeat for several.  [default: all, with --tenant all of the tenant's]",
)
@click.option("--tenant", help="Tell only what concerns this tenant.")
def add(
    url_of_receiver: str, events: tuple[str, ...], tenant: str | None, config: Path | None, **flags: Any
) -> None:
    """Add a webhook to the URL RECEIVER, and print once the secret with which its messages are signed."""
    chosen = events or tuple(event for event in _EVENTS if not (tenant and event.startswith("engine.")))
    made = billing_administration(config, **flags).add_webhook(url_of_receiver, chosen, tenant)
    click.echo(made["secret"])
    click.echo(f"id {made['id']}; this is the only time the secret is shown", err=True)


@admin_options
@webhook.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(as_json: bool, config: Path | None, **flags: Any) -> None:
    """List all webhooks, without their secrets."""
    found = billing_administration(config, **flags).webhooks()
    rows = [{name: row[name] for name in ("id", "url", "events", "tenant")} for row in found]
    show(rows if as_json else [row | {"events": ",".join(row["events"])} for row in rows], as_json=as_json)


@admin_options
@webhook.command()
@click.argument("webhook_id")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def messages(webhook_id: str, as_json: bool, config: Path | None, **flags: Any) -> None:
    """List the newest messages to a webhook, with how sending them went."""
    show(billing_administration(config, **flags).messages(webhook_id), as_json=as_json)


@admin_options
@webhook.command()
@click.argument("webhook_id")
def test(webhook_id: str, config: Path | None, **flags: Any) -> None:
    """Let a running server send the message `webhook.test`."""
    message = billing_administration(config, **flags).test_webhook(webhook_id)
    click.echo(f"Wrote {message['id']}; see `loragate webhook messages {webhook_id}`.")


@admin_options
@webhook.command()
@click.argument("webhook_id")
def remove(webhook_id: str, config: Path | None, **flags: Any) -> None:
    """Remove a webhook, and the messages that wait for it."""
    billing_administration(config, **flags).remove_webhook(webhook_id)
    click.echo(f"Removed webhook {webhook_id}.")
