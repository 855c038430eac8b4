"""Prices and webhooks: on a running server with `--url`, otherwise in the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from server.cli.storage import storage_settings
from server.cli.tenants.administration import Row, server_client


class BillingAdministration(Protocol):
    """Prices and webhooks; every record is as the admin API shows it.

    Raises: click.ClickException, with one sentence; AdapterError: a value is refused.
    """

    def prices(self, tenant: str | None) -> list[Row]:
        """All prices, or those for one tenant and everybody."""

    def set_price(self, fields: Mapping[str, Any]) -> Row:
        """Set or end a price; `fields` are those of `PriceBody`."""

    def remove_price(self, tenant: str, adapter: str, valid_from: datetime) -> None:
        """Remove a price that does not hold yet."""

    def webhooks(self) -> list[Row]:
        """All webhooks, without secrets."""

    def add_webhook(self, url: str, events: Sequence[str], tenant: str | None) -> Row:
        """Add a webhook; the record has its `secret`."""

    def remove_webhook(self, webhook_id: str) -> None:
        """Remove a webhook and the messages that wait for it."""

    def test_webhook(self, webhook_id: str) -> Row:
        """Write the message `webhook.test`, which a running server sends."""

    def messages(self, webhook_id: str) -> list[Row]:
        """The newest messages to a webhook."""


def billing_administration(config: Path | None, **flags: Any) -> BillingAdministration:
    """As `administration`, for prices and webhooks. Raises: click.UsageError."""
    if client := server_client(config, flags):
        from server.cli.billing.over_http import ServerBilling

        return ServerBilling(client)
    from server.cli.billing.in_database import DatabaseBilling

    return DatabaseBilling(storage_settings(config, flags))
