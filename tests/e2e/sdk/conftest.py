"""The official clients: each test here runs with the sync and with the async one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from openai._resource import AsyncAPIResource
from server_process import ServerProcess

_END = object()


class Blocking:
    """A part of the async client, used like the sync one's: an event loop in another thread does the awaiting."""

    def __init__(self, target: Any, portal: BlockingPortal) -> None:
        self._target = target
        self._portal = portal

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        return (
            Blocking(value, self._portal) if callable(value) or isinstance(value, AsyncAPIResource) else value
        )

    def __call__(self, *args: Any, **options: Any) -> Any:
        answer = self._portal.call(lambda: self._target(*args, **options))
        return Blocking(answer, self._portal) if hasattr(answer, "__aiter__") else answer

    def __iter__(self) -> Iterator[Any]:
        items = aiter(self._target)
        while (item := self._portal.call(anext, items, _END)) is not _END:
            yield item


@pytest.fixture(scope="session", params=["sync", "async"])
def client_for(request: pytest.FixtureRequest, server: ServerProcess) -> Iterator[Callable[[str], Any]]:
    """A client with a key, without its own retries."""
    options = {"base_url": f"{server.url}/v1", "max_retries": 0, "timeout": 60}
    if request.param == "sync":
        yield lambda key: openai.OpenAI(api_key=key, **options)
        return
    with start_blocking_portal() as portal:
        yield lambda key: Blocking(openai.AsyncOpenAI(api_key=key, **options), portal)


@pytest.fixture(scope="session")
def acme(client_for: Callable[[str], Any]) -> Any:
    return client_for("demo-acme")


@pytest.fixture(scope="session")
def globex(client_for: Callable[[str], Any]) -> Any:
    return client_for("demo-globex")


@pytest.fixture(scope="session")
def operator(client_for: Callable[[str], Any]) -> Any:
    return client_for("demo-admin")
