"""A receiver of webhooks on a free port, which checks signatures by the text of standardwebhooks.com."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

#: How old a message's time may be; the specification leaves it to the receiver.
TOLERANCE_S = 300


@dataclass
class WebhookReceiver:
    """What has arrived, and what is answered."""

    url: str = ""
    secret: str = ""
    statuses: list[int] = field(default_factory=list)
    """Of the next answers; then 204."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    delay_s: float = 0.0
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def take(self, path: str, headers: Any, body: bytes) -> int:
        """Note one request; its status."""
        assert verified(self.secret, headers, body), "the signature is wrong"
        with self.arrived:
            self.paths.append(path)
            self.ids.append(headers["webhook-id"])
            self.bodies.append(json.loads(body))
            status = self.statuses.pop(0) if self.statuses else 204
            self.arrived.notify_all()
        time.sleep(self.delay_s)
        return status

    def wait_for(self, number: int, timeout_s: float = 60.0) -> None:
        """Wait until so many requests have arrived."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.ids) >= number, timeout_s), self.ids


def verified(secret: str, headers: Any, body: bytes) -> bool:
    """Whether a receiver accepts the message: a new time, and one right signature of version 1."""
    if abs(time.time() - int(headers["webhook-timestamp"])) > TOLERANCE_S:
        return False
    signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    given = [part.partition(",") for part in headers["webhook-signature"].split(" ")]
    return any(version == "v1" and hmac.compare_digest(value, expected) for version, _, value in given)


@contextmanager
def webhook_receiver() -> Iterator[WebhookReceiver]:
    """A receiver that listens until the end of the block."""
    receiver = WebhookReceiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            try:
                status = receiver.take(self.path, self.headers, body)
            except AssertionError:
                status = 401
            self.send_response(status)
            self.send_header("content-length", "0")
            if 300 <= status < 400:
                self.send_header("location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05})
    thread.start()
    yield receiver
    server.shutdown()
    thread.join()
    server.server_close()
