"""Sends one hostile input again and again, in a process of its own: its work must not slow down the measuring one."""

from __future__ import annotations

import http.client
import multiprocessing
import os
import socket
import threading
import time
from collections import Counter
from multiprocessing.connection import Connection
from typing import Self
from urllib.parse import urlsplit

from benchmarks.hostile.hostile_input import HostileInput
from benchmarks.hostile.inputs import BY_NAME

_TIMEOUT_S = 120.0
#: A sender that is refused at once does not open connections as fast as it can: that is another kind of attack.
_BETWEEN_S = 0.05


class HostileClient:
    """The server's hostile tenant: `start`, wait, `leave`. A context manager that always leaves.

    Args:
        url: the server.
        key: the tenant's key; it may upload adapters too.
        tenant: the tenant's name.
        hostile: what to send.
    """

    def __init__(self, url: str, key: str, tenant: str, hostile: HostileInput) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_send_until_told, args=(theirs, url, key, tenant, hostile.name), daemon=True
        )

    def prepare(self) -> None:
        """Start the process and wait until it has built the body."""
        self._process.start()
        self._ours.recv()

    def start(self) -> None:
        """Begin to send."""
        self._ours.send("go")

    def leave(self) -> dict[str, int]:
        """Close all connections now; the answers by status, or by kind of error."""
        self._ours.send("leave")
        answers: dict[str, int] = self._ours.recv()
        self._process.join()
        return answers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()


def _send_until_told(told: Connection, url: str, key: str, tenant: str, name: str) -> None:
    hostile = BY_NAME[name]  # functions that build bodies cannot be sent to another process
    body = hostile.build()
    told.send("ready")
    told.recv()
    answers: Counter[str] = Counter()
    for _ in range(hostile.copies):
        sender = threading.Thread(
            target=_send_repeatedly, args=(url, key, tenant, hostile, body, answers), daemon=True
        )
        sender.start()
    told.recv()
    told.send(dict(answers))
    told.close()
    os._exit(0)  # the kernel closes the connections, as it does when a client crashes


def _send_repeatedly(
    url: str, key: str, tenant: str, hostile: HostileInput, body: bytes, answers: Counter[str]
) -> None:
    while True:
        try:
            answers[_send(url, key, tenant, hostile, body)] += 1
        except (OSError, http.client.HTTPException) as error:
            answers[type(error).__name__] += 1
        time.sleep(_BETWEEN_S)


def _send(url: str, key: str, tenant: str, hostile: HostileInput, body: bytes) -> str:
    """Send the input once; returns the status of the answer."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_TIMEOUT_S)
    headers = {
        "authorization": f"Bearer {key}",
        "content-type": hostile.content_type,
        "content-length": str(len(body)),
    }
    try:
        connection.putrequest("POST", hostile.path.format(tenant=tenant))
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        _send_body(connection.sock, body, hostile.pause_s)
        if not hostile.is_read:
            time.sleep(_TIMEOUT_S)
        answer = connection.getresponse()
        answer.read()
        return str(answer.status)
    finally:
        connection.close()


def _send_body(connection: socket.socket, body: bytes, pause_s: float) -> None:
    if not pause_s:
        connection.sendall(body)
        return
    for byte in body:
        connection.sendall(bytes([byte]))
        time.sleep(pause_s)
