"""Serves pages of another origin than the server's, and the files of npm packages that they import."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

#: Where a test installs npm packages.
PACKAGES = Path(__file__).parents[1] / "artefacts" / "npm"


class _Handler(SimpleHTTPRequestHandler):
    """An empty page at /, and the files of the packages."""

    def do_GET(self) -> None:
        if self.path != "/":
            super().do_GET()
            return
        page = b"<!doctype html><title>A page</title>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class PageServer:
    """A server on the loopback interface: a page from elsewhere may not call a server there."""

    port: int

    @property
    def origin(self) -> str:
        """The origin that the session's server allows."""
        return f"http://localhost:{self.port}"

    @property
    def other_origin(self) -> str:
        """The same pages, as an origin that it does not allow."""
        return f"http://127.0.0.1:{self.port}"

    @classmethod
    @contextlib.contextmanager
    def listening(cls) -> Iterator[PageServer]:
        """Serve on a free port until the end."""
        handler = partial(_Handler, directory=str(PACKAGES / "node_modules"))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
            threading.Thread(target=httpd.serve_forever, daemon=True).start()
            yield cls(httpd.server_port)
            httpd.shutdown()
