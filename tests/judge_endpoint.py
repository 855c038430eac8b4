"""A real HTTP endpoint in OpenAI's format whose model is a plain function: a judge of answers."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_ASKED = re.compile(
    r"(?:Reference answer:\n(.*?)\n\n)?Answer A:\n(.*?)\n\nAnswer B:\n(.*)", re.DOTALL
)  # fmt: skip

#: The judge's reply to (reference or "", answer A, answer B).
Opinion = Callable[[str, str, str], str]


@dataclass
class JudgeDouble:
    """What the endpoint says, and what it was asked."""

    opinion: Opinion
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def judge_endpoint(opinion: Opinion) -> Iterator[JudgeDouble]:
    """The endpoint on the loopback interface, while the block runs."""
    double = JudgeDouble(opinion)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            double.asked.append(body)
            double.keys.add(self.headers["authorization"])
            found = _ASKED.search(body["messages"][-1]["content"])
            assert found is not None
            message = {"role": "assistant", "content": double.opinion(found[1] or "", found[2], found[3])}
            reply = {
                "id": "x", "object": "chat.completion", "created": 1, "model": body["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            }  # fmt: skip
            content = json.dumps(reply).encode()
            self.send_response(double.status)
            for name, value in double.headers.items():
                self.send_header(name, value)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    poll = {"poll_interval": 0.01}  # how long `shutdown` waits
    threading.Thread(target=server.serve_forever, kwargs=poll, daemon=True).start()
    double.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
