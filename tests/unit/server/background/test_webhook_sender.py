"""Sending webhooks to real receivers: signed, repeated, nowhere else than allowed, and once more after a kill."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from webhook_receiver import WebhookReceiver, verified, webhook_receiver

from adapters.billing.webhooks import WebhookEvent, WebhookMessage
from adapters.errors import BadValue
from adapters.models import Actor
from adapters.registry import Registry, connect
from adapters.registry.database import utc_now
from adapters.registry.schema import billing_tables
from server.background import webhook_destinations, webhook_sender
from server.background.webhook_destinations import DestinationRefused, check_url, is_public, resolve
from server.background.webhook_sender import WebhookSender

BY = Actor("test")
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
E = WebhookEvent


@pytest.fixture
async def registry(sqlite_url: str) -> AsyncIterator[Registry]:
    engine = connect(sqlite_url)
    yield Registry(engine)
    await engine.dispose()


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with webhook_receiver() as receiver:
        yield receiver


async def hook_of(registry: Registry, receiver: WebhookReceiver) -> str:
    hook = await registry.webhooks.add(receiver.url, [E.ENGINE_FAILED], by=BY)
    receiver.secret = hook.secret
    return hook.id


async def send(registry: Registry, sender: WebhookSender) -> None:
    """All that is due, to the end."""
    await sender.send_due()
    await asyncio.gather(*sender._sending)


async def make_due(registry: Registry) -> None:
    """As if the pause or the claim had ended."""
    table = billing_tables.webhook_messages
    waiting = sa.update(table).where(table.c.next_attempt_at.is_not(None)).values(next_attempt_at=utc_now())
    async with registry.webhooks._database.write() as connection:
        await connection.execute(waiting)


async def the_message(registry: Registry, hook: str) -> WebhookMessage:
    (message,) = await registry.webhooks.messages(hook)
    return message


async def test_a_message_is_sent_signed_and_once(registry: Registry, receiver: WebhookReceiver) -> None:
    hook = await hook_of(registry, receiver)
    await registry.webhooks.emit(E.ENGINE_FAILED, {"reason": "died", "note": "Größe"})
    sender = WebhookSender(registry.webhooks, LOOPBACK)
    for _ in range(3):
        await send(registry, sender)
    message = await the_message(registry, hook)
    assert receiver.ids == [message.id] and receiver.paths == ["/hook"]
    assert receiver.bodies[0]["data"] == {"reason": "died", "note": "Größe"}
    assert message.sent_at is not None and message.next_attempt_at is None


async def test_a_refused_message_is_sent_again_with_its_id(
    registry: Registry, receiver: WebhookReceiver
) -> None:
    hook = await hook_of(registry, receiver)
    receiver.statuses = [500, 302, 204]
    await registry.webhooks.test(hook)
    sender = WebhookSender(registry.webhooks, LOOPBACK)
    for error in ("the receiver answered with status 500", "the receiver answered with status 302", ""):
        await send(registry, sender)
        assert (await the_message(registry, hook)).last_error == error
        await send(registry, sender)  # not before its pause has ended
        await make_due(registry)
    assert len(receiver.ids) == 3 and len(set(receiver.ids)) == 1
    assert set(receiver.paths) == {"/hook"}, "no redirect is followed"


async def test_a_receiver_that_is_gone_is_left_alone(registry: Registry, receiver: WebhookReceiver) -> None:
    hook = await hook_of(registry, receiver)
    receiver.statuses = [410]
    await registry.webhooks.test(hook)
    await send(registry, WebhookSender(registry.webhooks, LOOPBACK))
    message = await the_message(registry, hook)
    assert message.next_attempt_at is None and message.sent_at is None and "410" in message.last_error


async def test_who_does_not_answer_fails_without_an_address(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sender, "ATTEMPT_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        slow = await registry.webhooks.add(url, [E.ENGINE_FAILED], by=BY)
        await registry.webhooks.test(slow.id)
        await send(registry, WebhookSender(registry.webhooks, LOOPBACK))
        assert (await the_message(registry, slow.id)).last_error == "no answer within 0.05 s"
    gone = await registry.webhooks.add(url, [E.ENGINE_FAILED], by=BY)
    await registry.webhooks.test(gone.id)
    monkeypatch.setattr(webhook_sender, "ATTEMPT_TIMEOUT_S", 5.0)
    await send(registry, WebhookSender(registry.webhooks, LOOPBACK))
    error = (await the_message(registry, gone.id)).last_error
    assert error == "the receiver cannot be reached (ConnectError)"


async def test_what_ends_with_the_server_is_sent_by_the_next(
    registry: Registry, receiver: WebhookReceiver
) -> None:
    hook = await hook_of(registry, receiver)
    receiver.delay_s = 0.2
    await registry.webhooks.test(hook)
    sender = WebhookSender(registry.webhooks, LOOPBACK)
    await sender.send_due()
    await sender.aclose()
    assert (await the_message(registry, hook)).sent_at is None
    await make_due(registry)
    await send(registry, WebhookSender(registry.webhooks, LOOPBACK))
    assert (await the_message(registry, hook)).sent_at is not None


# --- where it may be sent -------------------------------------------------------------------------------------------


async def test_without_the_operators_word_nothing_reaches_an_internal_network(
    registry: Registry, receiver: WebhookReceiver
) -> None:
    hook = await hook_of(registry, receiver)
    await registry.webhooks.test(hook)
    await send(registry, WebhookSender(registry.webhooks, ()))
    message = await the_message(registry, hook)
    assert receiver.ids == [] and message.last_error.startswith("the destination is refused: ")
    assert "127.0.0.1" not in message.last_error


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
    ],
)  # fmt: skip
async def test_a_name_that_leads_inside_is_refused_when_it_is_used(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the name has a public address, too: it may be another one at the next look-up."""
    assert not is_public(ipaddress.ip_address(address))
    for addresses in ([address], ["93.184.215.14", address]):
        look_up(monkeypatch, *addresses)
        with pytest.raises(DestinationRefused, match="leads into a network"):
            await resolve("https://hooks.example.com/x", LOOPBACK[:0])


def look_up(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name have these addresses."""

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


async def test_the_checked_address_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up(monkeypatch, "2606:2800:21f:cb07:6820:80da:af6b:8b2c")
    found = await resolve("https://hooks.example.com:8443/x?y=1", ())
    assert str(found.url) == "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:8443/x?y=1"
    assert (found.host, found.name) == ("hooks.example.com:8443", "hooks.example.com")
    look_up(monkeypatch, "93.184.215.14")
    with pytest.raises(DestinationRefused, match="http:// is only for"):
        await resolve("http://hooks.example.com/", LOOPBACK)


async def test_a_certificate_must_be_of_the_name(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name, not the address, goes into the TLS handshake and the header Host."""
    seen: list[httpx.Request] = []

    async def note(self: Any, request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(204)

    look_up(monkeypatch, "93.184.215.14")
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", note)
    hook = await registry.webhooks.add("https://hooks.example.com/x", [E.ENGINE_FAILED], by=BY)
    await registry.webhooks.test(hook.id)
    await send(registry, WebhookSender(registry.webhooks, ()))
    (request,) = seen
    assert request.url.host == "93.184.215.14" and request.headers["host"] == "hooks.example.com"
    assert request.extensions["sni_hostname"] == "hooks.example.com"
    assert verified(hook.secret, request.headers, request.content)


@pytest.mark.parametrize(
    ("url", "networks", "message"),
    [
        ("ftp://example.com/", LOOPBACK, "begins with https://"),
        ("http://example.com/", (), "begins with https://"),
        ("https:///x", (), "begins with https://"),
        ("file:///etc/passwd", LOOPBACK, "begins with https://"),
        ("https://user:secret@example.com/", (), "no user, password or fragment"),
        ("https://example.com/#x", (), "no user, password or fragment"),
        ("https://example.com:99999/", (), "the port 99999; use one from 1 to 65535"),
        ("https://[::1/", (), "cannot be read"),
        ("nothing", (), "begins with https://"),
    ],
)
def test_urls_that_cannot_be_meant_are_refused(url: str, networks: Any, message: str) -> None:
    with pytest.raises(BadValue, match=message):
        check_url(url, networks)
    assert check_url("https://example.com/x?y=1", ()) == "https://example.com/x?y=1"
    assert webhook_destinations.check_url("http://10.0.0.1/", LOOPBACK)


# --- kill -9 --------------------------------------------------------------------------------------------------------

_PROGRAM = textwrap.dedent(
    """
    import asyncio, ipaddress, sys
    from adapters.registry import Registry, connect
    from adapters.billing.webhooks import WebhookEvent
    from server.background.webhook_sender import WebhookSender

    async def main(url, messages):
        registry = Registry(connect(url))
        for number in range(int(messages)):
            await registry.webhooks.emit(WebhookEvent.ENGINE_FAILED, {"number": number})
        print("written", flush=True)
        sender = WebhookSender(registry.webhooks, [ipaddress.ip_network("127.0.0.0/8")])
        while True:
            await sender.send_due()
            await asyncio.sleep(0.01)

    asyncio.run(main(*sys.argv[1:]))
    """
)


@pytest.mark.slow
async def test_after_kill_9_every_message_arrives_once_or_more(
    registry: Registry, receiver: WebhookReceiver, sqlite_url: str
) -> None:
    """Three servers are killed while they send; what each had written arrives, with right signatures."""
    hook = await hook_of(registry, receiver)
    receiver.delay_s = 0.05
    written = 0
    for messages, arrive in ((20, 3), (20, 12), (0, 20), (0, 40)):
        written += messages
        await make_due(registry)
        server = start(sqlite_url, messages)
        try:
            assert server.stdout is not None and server.stdout.readline() == "written\n"
            before = len(receiver.ids)
            while len(set(receiver.ids)) < arrive:
                await asyncio.to_thread(receiver.wait_for, before + 1)
                before = len(receiver.ids)
        finally:
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
    assert len(set(receiver.ids)) == written == 40
    numbers = sorted(body["data"]["number"] for body in {json.dumps(b): b for b in receiver.bodies}.values())
    assert numbers == sorted(2 * list(range(20)))
    kept = await registry.webhooks.messages(hook)
    assert {message.id for message in kept} == set(receiver.ids)


def start(url: str, messages: int) -> subprocess.Popen[str]:
    root = Path(__file__).parents[4]
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, url, str(messages)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
