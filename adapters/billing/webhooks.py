"""Webhooks: what they are told, and how a message is signed, by the scheme of standardwebhooks.com."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

_SECRET_PREFIX: Final = "whsec_"  # noqa: S105  # of the scheme
_SECRET_BYTES: Final = 32
#: The pauses before each further attempt; then a message is given up.
BACKOFF: Final = tuple(
    timedelta(seconds=seconds) for seconds in (5, 60, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
)


class WebhookEvent(StrEnum):
    """What a webhook can be told."""

    BUDGET = "budget.threshold_reached"
    ROLLBACK = "adapter.rolled_back"
    ENGINE_FAILED = "engine.failed"
    ENGINE_RESTORED = "engine.restored"
    TEST = "webhook.test"
    """Sent on request only, to one webhook."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A destination of messages."""

    id: str
    url: str
    secret: str = field(repr=False)
    events: tuple[WebhookEvent, ...]
    tenant: str | None
    """Only events of this tenant; None: of all, and of the engine."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class WebhookMessage:
    """One message to one webhook."""

    id: str
    webhook: str
    event: str
    payload: str
    created_at: datetime
    attempts: int
    """Begun so far."""
    next_attempt_at: datetime | None
    """None: it was sent, or given up."""
    sent_at: datetime | None
    last_error: str


def new_secret() -> str:
    """A signing secret, in the form in which libraries of the scheme take it."""
    return _SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def signed_headers(secret: str, message_id: str, payload: str, now: datetime) -> dict[str, str]:
    """The headers of an attempt: id (the same for each), time and signature.

    The signature is HMAC-SHA256 over `id.timestamp.payload`, so neither can be exchanged; receivers refuse old times.
    """
    timestamp = str(int(now.timestamp()))
    key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX))
    content = f"{message_id}.{timestamp}.{payload}".encode()
    signature = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }
