"""Prices and webhooks in the registry's database, whether a server runs or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from adapters.billing.prices import PriceEntry
from adapters.billing.webhooks import WebhookEvent
from server.api.admin.billing.prices import PriceBody, PriceInfo, price_row, read_price
from server.api.admin.billing.webhooks import MessageInfo, NewWebhook, WebhookInfo
from server.background.webhook_destinations import check_url
from server.cli.storage import operator_at_shell, with_registry
from server.cli.tenants.administration import Row
from server.config.combinations import networks_of
from server.config.settings import Settings


class DatabaseBilling:
    """See `BillingAdministration`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def prices(self, tenant: str | None) -> list[Row]:
        """All prices, or those for one tenant and everybody."""
        entries = with_registry(self._settings, lambda r: r.prices.list()).entries
        return [self._price(entry) for entry in entries if tenant is None or entry.tenant in ("", tenant)]

    def set_price(self, fields: Mapping[str, Any]) -> Row:
        """Set or end a price; `fields` are those of `PriceBody`."""
        body = PriceBody.model_validate(fields)
        price = read_price(body.prompt, body.cached, body.generated, ends=body.ends)
        when: dict[str, Any] = {"valid_from": body.valid_from, "backdate": body.backdate}
        entry = with_registry(
            self._settings,
            lambda r: r.prices.set(body.tenant, body.adapter, price, by=operator_at_shell(), **when),
        )
        return self._price(entry)

    def remove_price(self, tenant: str, adapter: str, valid_from: datetime) -> None:
        """Remove a price that does not hold yet."""
        with_registry(
            self._settings, lambda r: r.prices.remove(tenant, adapter, valid_from, by=operator_at_shell())
        )

    def webhooks(self) -> list[Row]:
        """All webhooks, without secrets."""
        found = with_registry(self._settings, lambda r: r.webhooks.list())
        return [WebhookInfo.model_validate(webhook).model_dump(mode="json") for webhook in found]

    def add_webhook(self, url: str, events: Sequence[str], tenant: str | None) -> Row:
        """Add a webhook; the record has its `secret`."""
        checked = check_url(url, networks_of(self._settings))
        chosen = [WebhookEvent(event) for event in events]
        made = with_registry(
            self._settings, lambda r: r.webhooks.add(checked, chosen, by=operator_at_shell(), tenant=tenant)
        )
        return NewWebhook.model_validate(made).model_dump(mode="json")

    def remove_webhook(self, webhook_id: str) -> None:
        """Remove a webhook and the messages that wait for it."""
        with_registry(self._settings, lambda r: r.webhooks.remove(webhook_id, by=operator_at_shell()))

    def test_webhook(self, webhook_id: str) -> Row:
        """Write the message `webhook.test`, which a running server sends."""
        message = with_registry(self._settings, lambda r: r.webhooks.test(webhook_id))
        return MessageInfo.model_validate(message).model_dump(mode="json")

    def messages(self, webhook_id: str) -> list[Row]:
        """The newest messages to a webhook."""
        found = with_registry(self._settings, lambda r: r.webhooks.messages(webhook_id))
        return [MessageInfo.model_validate(message).model_dump(mode="json") for message in found]

    def _price(self, entry: PriceEntry) -> Row:
        return PriceInfo(**price_row(entry, self._settings.currency)).model_dump(mode="json")
