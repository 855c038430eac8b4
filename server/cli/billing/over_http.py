"""Prices and webhooks through the admin API of a running server, from any machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from server.cli.adapters.admin_client import AdminClient
from server.cli.tenants.administration import Row


class ServerBilling:
    """See `BillingAdministration`."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    def prices(self, tenant: str | None) -> list[Row]:
        """All prices, or those for one tenant and everybody."""
        return self._list("/prices", params={} if tenant is None else {"tenant": tenant})

    def set_price(self, fields: Mapping[str, Any]) -> Row:
        """Set or end a price; `fields` are those of `PriceBody`."""
        return self._row("POST", "/prices", json=dict(fields))

    def remove_price(self, tenant: str, adapter: str, valid_from: datetime) -> None:
        """Remove a price that does not hold yet."""
        scope = {"tenant": tenant, "adapter": adapter, "valid_from": valid_from.isoformat()}
        self._client.call("DELETE", "/prices", params=scope)

    def webhooks(self) -> list[Row]:
        """All webhooks, without secrets."""
        return self._list("/webhooks")

    def add_webhook(self, url: str, events: Sequence[str], tenant: str | None) -> Row:
        """Add a webhook; the record has its `secret`."""
        return self._row("POST", "/webhooks", json={"url": url, "events": list(events), "tenant": tenant})

    def remove_webhook(self, webhook_id: str) -> None:
        """Remove a webhook and the messages that wait for it."""
        self._client.call("DELETE", f"/webhooks/{quote(webhook_id, '')}")

    def test_webhook(self, webhook_id: str) -> Row:
        """Write the message `webhook.test`, which a running server sends."""
        return self._row("POST", f"/webhooks/{quote(webhook_id, '')}/test")

    def messages(self, webhook_id: str) -> list[Row]:
        """The newest messages to a webhook."""
        return self._list(f"/webhooks/{quote(webhook_id, '')}/messages")

    def _row(self, method: str, path: str, **request: Any) -> Row:
        row: Row = self._client.call(method, path, **request)
        return row

    def _list(self, path: str, **request: Any) -> list[Row]:
        rows: list[Row] = self._client.call("GET", path, **request)["data"]
        return rows
