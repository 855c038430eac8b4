"""/admin/v1/webhooks, for operators only: they decide where the server sends something."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict

from adapters.billing.webhooks import WebhookEvent
from server.api.admin.models import Listing
from server.api.admin.permissions import AdminServices, Permissions, Wire, actor, admin_router
from server.background.webhook_destinations import check_url
from server.config.combinations import networks_of
from server.request.context import Caller


class WebhookBody(Wire):
    """A new webhook; with a tenant only its events are told."""

    url: str
    events: list[WebhookEvent]
    tenant: str | None = None


class WebhookInfo(BaseModel):
    """A webhook without its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    url: str
    events: Sequence[WebhookEvent]
    tenant: str | None
    created_at: datetime


class NewWebhook(WebhookInfo):
    """A new webhook. Only this answer shows the secret with which its messages are signed."""

    secret: str


class MessageInfo(BaseModel):
    """A message to a webhook; `next_attempt_at` is null when it was sent or given up."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    event: str
    created_at: datetime
    attempts: int
    next_attempt_at: datetime | None
    sent_at: datetime | None
    last_error: str


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes of webhooks: /admin/v1/webhooks."""
    routes = admin_router()
    webhooks, settings = services.registry.webhooks, services.settings

    @routes.get("/webhooks")
    async def list_webhooks(caller: Caller = Depends(guard.operator)) -> Listing[WebhookInfo]:
        """All webhooks."""
        return Listing(data=[WebhookInfo.model_validate(webhook) for webhook in await webhooks.list()])

    @routes.post("/webhooks", status_code=201)
    async def add_webhook(body: WebhookBody, caller: Caller = Depends(guard.operator)) -> NewWebhook:
        """Add a webhook; only this answer shows its secret."""
        url = check_url(body.url, networks_of(settings))
        made = await webhooks.add(url, body.events, by=actor(caller), tenant=body.tenant)
        return NewWebhook.model_validate(made)

    @routes.delete("/webhooks/{webhook_id}", status_code=204)
    async def remove_webhook(webhook_id: str, caller: Caller = Depends(guard.operator)) -> None:
        """Remove a webhook, and the messages that wait for it."""
        await webhooks.remove(webhook_id, by=actor(caller))

    @routes.post("/webhooks/{webhook_id}/test", status_code=202)
    async def test_webhook(webhook_id: str, caller: Caller = Depends(guard.operator)) -> MessageInfo:
        """Send a message `webhook.test` to this webhook."""
        return MessageInfo.model_validate(await webhooks.test(webhook_id))

    @routes.get("/webhooks/{webhook_id}/messages")
    async def list_messages(
        webhook_id: str,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        caller: Caller = Depends(guard.operator),
    ) -> Listing[MessageInfo]:
        """The newest messages to a webhook, with how sending them went."""
        found = await webhooks.messages(webhook_id, limit=limit)
        return Listing(data=[MessageInfo.model_validate(message) for message in found])

    return routes
