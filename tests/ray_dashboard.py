"""A dashboard of Ray that keeps what it is told, and says of it what it is made to say."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATH = "/api/serve/applications/"


@dataclass
class Dashboard:
    """`steps` are the states that each question finds: (status of the application, states of its replicas)."""

    url: str = ""
    wanted: int = 2
    steps: list[tuple[str, list[str]]] = field(default_factory=lambda: [("RUNNING", ["RUNNING", "RUNNING"])])
    told: list[dict[str, Any]] = field(default_factory=list)
    refusal: int = 0

    def answer(self) -> dict[str, Any]:
        """What GET answers."""
        if not self.told:
            return {"proxy_location": None, "applications": {}}
        status, states = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        replicas = [{"state": state} for state in states]
        servers = {"message": "why", "target_num_replicas": self.wanted, "replicas": replicas}
        applications = {each["name"]: each for each in self.told[-1]["applications"]}
        return {
            "proxy_location": "Disabled",
            "applications": {
                name: {
                    "deployed_app_config": config,
                    "status": status,
                    "message": "",
                    "deployments": {"servers": servers},
                }
                for name, config in applications.items()
            },
        }


@contextmanager
def dashboard() -> Iterator[Dashboard]:
    """A dashboard that listens."""
    state = Dashboard()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(state.refusal or 200, json.dumps(state.answer()))

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if not state.refusal:
                state.told.append(json.loads(body))
            self._send(state.refusal or 200, "no such field" if state.refusal else "")

        def _send(self, status: int, text: str) -> None:
            self.send_response(status if self.path == PATH else 404)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
