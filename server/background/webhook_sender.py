"""Sends the messages that wait for webhooks, and repeats what fails."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence

import httpx

from adapters.billing.webhooks import Webhook, WebhookMessage, signed_headers
from adapters.errors import RegistryUnavailable
from adapters.registry.billing.webhooks import Webhooks
from adapters.registry.database import utc_now
from server.background.webhook_destinations import DestinationRefused, Network, resolve

logger = logging.getLogger("loragate.webhooks")

SEND_INTERVAL_S = 1.0
FORGET_INTERVAL_S = 3600.0
#: One attempt, from the look-up of the name to the answer's head; less than a claim.
ATTEMPT_TIMEOUT_S = 15.0
_MOST_AT_ONCE = 16
_GONE = 410


class WebhookSender:
    """Takes due messages and sends each; several servers may do it at the same time.

    Args:
        webhooks: where messages wait.
        networks: what may be reached beside public addresses.
    """

    def __init__(self, webhooks: Webhooks, networks: Sequence[Network]) -> None:
        self._webhooks = webhooks
        self._networks = networks
        self._tls = ssl.create_default_context()
        self._sending: set[asyncio.Task[None]] = set()

    async def send_due(self) -> None:
        """Begin to send what is due, and return; a slow receiver holds up nothing. Raises: RegistryUnavailable."""
        free = _MOST_AT_ONCE - len(self._sending)
        for message, webhook in await self._webhooks.claim(free) if free else ():
            task = asyncio.create_task(self._send(message, webhook), name="webhook")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def aclose(self) -> None:
        """End the attempts that run; their messages are sent again after the claim."""
        for task in tuple(self._sending):
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)

    async def _send(self, message: WebhookMessage, webhook: Webhook) -> None:
        error, give_up = await self._attempt(message, webhook)
        try:
            if not error:
                await self._webhooks.sent(message)
                return
            await self._webhooks.failed(message, error, give_up=give_up)
        except RegistryUnavailable:  # it is claimed, and sent again when the claim has ended
            logger.warning("The end of an attempt to send %s could not be written.", message.id)
            return
        log = {"webhook": webhook.id, "message_id": message.id, "attempt": message.attempts}
        logger.warning("A webhook's message was not taken: %s.", error, extra=log)

    async def _attempt(self, message: WebhookMessage, webhook: Webhook) -> tuple[str, bool]:
        """The reason of a failure, without an address ("": sent), and whether to give up."""
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
                status = await self._post(message, webhook)
        except DestinationRefused as error:
            return f"the destination is refused: {error}", False
        except TimeoutError:
            return f"no answer within {ATTEMPT_TIMEOUT_S:g} s", False
        except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:
            return f"the receiver cannot be reached ({type(error).__name__})", False
        if 200 <= status < 300:
            return "", False
        return f"the receiver answered with status {status}", status == _GONE

    async def _post(self, message: WebhookMessage, webhook: Webhook) -> int:
        """One attempt; the status. Redirects are not followed: they could lead anywhere."""
        destination = await resolve(webhook.url, self._networks)
        headers = signed_headers(webhook.secret, message.id, message.payload, utc_now())
        headers |= {"content-type": "application/json", "user-agent": "loragate", "host": destination.host}
        async with (
            httpx.AsyncClient(verify=self._tls, trust_env=False, timeout=ATTEMPT_TIMEOUT_S) as client,
            client.stream(
                "POST",
                destination.url,
                content=message.payload.encode(),
                headers=headers,
                extensions={"sni_hostname": destination.name},
            ) as answer,
        ):
            return answer.status_code
