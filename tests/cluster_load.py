"""Requests that come all the time to the front of several servers, and how they ended."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

HELLO = [{"role": "user", "content": "Hello!"}]
KEY, OPERATOR = {"authorization": "Bearer demo-acme"}, {"authorization": "Bearer demo-admin"}
#: How a request that had not begun may end: with a whole answer.
FRESH_OK = {"whole 200"}
#: How a stream may end whose server was killed: with an error event and `[DONE]`.
STREAMS_OK = {"stream whole", "stream failed"}


def chat(url: str, client: httpx.Client, model: str = "acme-support", **more: Any) -> httpx.Response:
    body = {"model": model, "messages": HELLO, "max_tokens": 4} | more
    return client.post(f"{url}/v1/chat/completions", json=body, headers=KEY)


@dataclass
class Load:
    """The requests' ends, counted; `url` may change."""

    url: str
    tokens: int = 200
    ends: Counter[str] = field(default_factory=Counter)
    stopped: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    """Some stream has had its first token."""

    @property
    def fresh_failed(self) -> int:
        """Requests that had not begun and got no whole answer."""
        return sum(n for end, n in self.ends.items() if end.startswith("whole") and end not in FRESH_OK)

    @property
    def silent_cuts(self) -> int:
        """Streams that ended without a word."""
        return sum(n for end, n in self.ends.items() if end.startswith("stream") and end not in STREAMS_OK)

    def ask(self) -> None:
        with httpx.Client(timeout=120) as client:
            while not self.stopped.is_set():
                try:
                    self.ends[f"whole {chat(self.url, client).status_code}"] += 1
                except httpx.HTTPError as error:
                    self.ends[f"whole {type(error).__name__}"] += 1

    def stream(self) -> None:
        long = {"max_tokens": self.tokens, "min_tokens": self.tokens, "ignore_eos": True, "stream": True}
        body = {"model": "acme-support", "messages": HELLO} | long
        with httpx.Client(timeout=120) as client:
            while not self.stopped.is_set():
                try:
                    self.ends[f"stream {self._read(client, body)}"] += 1
                except httpx.HTTPError as error:
                    self.ends[f"stream {type(error).__name__}"] += 1

    def _read(self, client: httpx.Client, body: dict[str, Any]) -> str:
        with client.stream("POST", f"{self.url}/v1/chat/completions", json=body, headers=KEY) as answer:
            text = ""
            for piece in answer.iter_text():
                text += piece
                self.begun.set()
        if answer.status_code != 200:
            return str(answer.status_code)
        if not text.endswith("data: [DONE]\n\n"):
            return "cut"
        return "failed" if '"code": "engine_unavailable"' in text else "whole"


@contextmanager
def load(url: str, asking: int = 3, streaming: int = 3, tokens: int = 200) -> Iterator[Load]:
    """So many clients of each kind, until the block has ended and their last answers, too."""
    made = Load(url, tokens)
    runs = [made.ask] * asking + [made.stream] * streaming
    threads = [threading.Thread(target=run) for run in runs]
    for thread in threads:
        thread.start()
    try:
        if streaming:
            assert made.begun.wait(120), made.ends
        yield made
    finally:
        made.stopped.set()
        for thread in threads:
            thread.join()
