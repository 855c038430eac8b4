"""Webhooks, and the messages that wait to be sent to them.

A message is written in the transaction of what it tells, or before its event is forgotten, and stays until a server
has sent it: so it is sent at least once, whatever is killed when.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.billing.errors import UnknownWebhook
from adapters.billing.webhooks import BACKOFF, Webhook, WebhookEvent, WebhookMessage, new_secret
from adapters.errors import BadValue, UnknownTenant
from adapters.models import Actor
from adapters.registry.database import DatabasePart, insert_into, utc_now
from adapters.registry.schema import billing_tables, tables

_W, _M, _A = billing_tables.webhooks, billing_tables.webhook_messages, billing_tables.budget_alerts
#: A server that has not said in this time how an attempt ended has died; another one sends the message again.
CLAIM = timedelta(seconds=60)
#: Attempts to one webhook at the same time: a slow receiver must not hold up the others.
_MOST_PER_WEBHOOK = 4
_KEPT = timedelta(days=30)
_MAX_ERROR = 200


@dataclass(frozen=True, slots=True)
class BudgetAlert:
    """A threshold of a budget that was reached; each is told once in its period, and again if the budget changes."""

    owner: str
    budget: str
    period_start: datetime
    allowed: str
    percent: int
    tenant: str = field(compare=False)


class Webhooks(DatabasePart):
    """The registry's webhooks."""

    async def add(
        self, url: str, events: Sequence[WebhookEvent], *, by: Actor, tenant: str | None = None
    ) -> Webhook:
        """Add a webhook with a new secret; the caller has checked the URL.

        Raises: UnknownTenant; BadValue: no event, or one of the engine for a tenant.
        """
        of_engine = {WebhookEvent.ENGINE_FAILED, WebhookEvent.ENGINE_RESTORED} & set(events)
        if not events or WebhookEvent.TEST in events or (tenant is not None and of_engine):
            offered = [
                e for e in WebhookEvent if e is not WebhookEvent.TEST and not (tenant and "engine" in e)
            ]
            raise BadValue(
                f"A webhook{' of a tenant' if tenant else ''} can have the events {', '.join(offered)}."
            )
        made = Webhook(
            "wh_" + secrets.token_hex(8), url, new_secret(), tuple(sorted(set(events))), tenant, utc_now()
        )
        details = {"events": list(made.events), "tenant": tenant}
        async with self._database.change(by, "webhook.add", made.id, details) as connection:
            known = sa.select(tables.tenants.c.name).where(tables.tenants.c.name == tenant)
            if tenant is not None and (await connection.execute(known)).scalar_one_or_none() is None:
                raise UnknownTenant(tenant)
            row = {column.name: getattr(made, column.name) for column in _W.columns}
            await connection.execute(sa.insert(_W).values(row | {"events": list(made.events)}))
        return made

    async def list(self) -> tuple[Webhook, ...]:
        """All webhooks, oldest first."""
        async with self._database.read() as connection:
            return await _all(connection)

    async def remove(self, webhook_id: str, *, by: Actor) -> None:
        """Remove a webhook with its messages. Raises: UnknownWebhook."""
        async with self._database.change(by, "webhook.remove", webhook_id) as connection:
            if (await connection.execute(sa.delete(_W).where(_W.c.id == webhook_id))).rowcount == 0:
                raise UnknownWebhook(webhook_id)

    async def test(self, webhook_id: str) -> WebhookMessage:
        """Write a message without meaning to one webhook. Raises: UnknownWebhook."""
        async with self._database.write() as connection:
            found = [webhook for webhook in await _all(connection) if webhook.id == webhook_id]
            if not found:
                raise UnknownWebhook(webhook_id)
            return await _write(connection, found[0], WebhookEvent.TEST, {})

    async def messages(self, webhook_id: str, *, limit: int = 100) -> tuple[WebhookMessage, ...]:
        """The newest messages to a webhook, newest first. Raises: UnknownWebhook."""
        query = sa.select(_M).where(_M.c.webhook == webhook_id).order_by(_M.c.created_at.desc(), _M.c.id)
        async with self._database.read() as connection:
            if all(webhook.id != webhook_id for webhook in await _all(connection)):
                raise UnknownWebhook(webhook_id)
            rows = (await connection.execute(query.limit(limit))).mappings()
            return tuple(_message(row) for row in rows)

    async def emit(self, event: WebhookEvent, data: Mapping[str, Any]) -> None:
        """Tell what belongs to no change of the registry. Raises: RegistryUnavailable: nothing is written."""
        async with self._database.write() as connection:
            await enqueue(connection, event, None, data)

    async def alert(self, alert: BudgetAlert, data: Mapping[str, Any]) -> bool:
        """Tell that so much of a budget is used, once; whether it is new. Raises: RegistryUnavailable."""
        row = {column.name: getattr(alert, column.name) for column in _A.columns if column.name != "at"}
        async with self._database.write() as connection:
            insert = insert_into(connection.dialect, _A).values(row | {"at": utc_now()})
            told = insert.on_conflict_do_nothing().returning(_A.c.owner)
            is_new = (await connection.execute(told)).scalar_one_or_none() is not None
            if is_new:
                await enqueue(connection, WebhookEvent.BUDGET, alert.tenant, data)
        return is_new

    async def claim(
        self, most: int, now: datetime | None = None
    ) -> tuple[tuple[WebhookMessage, Webhook], ...]:
        """Take messages that are due; for CLAIM no other server takes them. Raises: RegistryUnavailable."""
        now = now or utc_now()
        due = sa.and_(_M.c.next_attempt_at.is_not(None), _M.c.next_attempt_at <= now)
        place = sa.func.row_number().over(partition_by=_M.c.webhook, order_by=(_M.c.next_attempt_at, _M.c.id))
        placed = sa.select(_M.c.id, place.label("place")).where(due).subquery()
        chosen = sa.select(placed.c.id).where(placed.c.place <= _MOST_PER_WEBHOOK).limit(most)
        async with self._database.read() as connection:
            if not (await connection.execute(chosen)).first():
                return ()  # SQLite: no writer for nothing
        take = (
            sa.update(_M)
            .where(_M.c.id.in_(chosen), due)  # again: another server may have been quicker
            .values(next_attempt_at=now + CLAIM, attempts=_M.c.attempts + 1)
            .returning(*_M.columns)
        )
        async with self._database.write() as connection:
            taken = [_message(row) for row in (await connection.execute(take)).mappings()]
            by_id = {webhook.id: webhook for webhook in await _all(connection)}
        return tuple((message, by_id[message.webhook]) for message in taken)

    async def sent(self, message: WebhookMessage) -> None:
        """The receiver has taken it. Raises: RegistryUnavailable: it is sent once more."""
        await self._update(message, next_attempt_at=None, sent_at=utc_now(), last_error="")

    async def failed(self, message: WebhookMessage, error: str, *, give_up: bool = False) -> None:
        """The attempt failed: another follows after a pause, unless it was the last. Raises: RegistryUnavailable."""
        ended = give_up or message.attempts > len(BACKOFF)
        again = None if ended else utc_now() + BACKOFF[message.attempts - 1]
        await self._update(message, next_attempt_at=again, last_error=error[:_MAX_ERROR])

    async def forget(self) -> None:
        """Delete messages and alerts that are older than 30 days, also those that nobody took."""
        async with self._database.write() as connection:
            await connection.execute(sa.delete(_M).where(_M.c.created_at < utc_now() - _KEPT))
            await connection.execute(sa.delete(_A).where(_A.c.period_start < utc_now() - 2 * _KEPT))

    async def _update(self, message: WebhookMessage, **values: Any) -> None:
        async with self._database.write() as connection:
            await connection.execute(sa.update(_M).where(_M.c.id == message.id).values(**values))


async def enqueue(
    connection: AsyncConnection, event: WebhookEvent, tenant: str | None, data: Mapping[str, Any]
) -> None:
    """Write a message for each webhook that wants it, in the caller's transaction."""
    for webhook in await _all(connection):
        if event in webhook.events and webhook.tenant in (None, tenant):
            await _write(connection, webhook, event, data)


async def _write(
    connection: AsyncConnection, webhook: Webhook, event: WebhookEvent, data: Mapping[str, Any]
) -> WebhookMessage:
    now = utc_now()
    payload = json.dumps(
        {"type": event, "timestamp": now.isoformat(), "data": data}, separators=(",", ":"), ensure_ascii=False
    )
    message = WebhookMessage(
        "msg_" + secrets.token_hex(12), webhook.id, event, payload, now, 0, now, None, ""
    )
    row = {column.name: getattr(message, column.name) for column in _M.columns}
    await connection.execute(sa.insert(_M).values(row))
    return message


async def _all(connection: AsyncConnection) -> tuple[Webhook, ...]:
    rows = (await connection.execute(sa.select(_W).order_by(_W.c.created_at, _W.c.id))).mappings()
    return tuple(_webhook(row) for row in rows)


def _webhook(row: RowMapping) -> Webhook:
    events = tuple(WebhookEvent(event) for event in row["events"] if event in set(WebhookEvent))
    return Webhook(row["id"], row["url"], row["secret"], events, row["tenant"], row["created_at"])


def _message(row: RowMapping) -> WebhookMessage:
    return WebhookMessage(**{column.name: row[column.name] for column in _M.columns})
