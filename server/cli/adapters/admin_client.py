"""The client that the commands use to call a running server's /admin/v1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import httpx

from server.config.environment import read_variable
from server.config.settings import CLIENT_KEY_VARIABLE, CLIENT_URL_VARIABLE

DEFAULT_URL = "http://127.0.0.1:8000"


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--url` and `--key`."""
    url_help = f"URL of the server. [env: {CLIENT_URL_VARIABLE}; default: {DEFAULT_URL}]"
    key_help = f"Admin or operator key. [env: {CLIENT_KEY_VARIABLE}]"
    command = click.option("--key", default=None, help=key_help)(command)
    return click.option("--url", default=None, help=url_help)(command)


class Refusal(click.ClickException):
    """The server refused a request; has its message and the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class AdminClient:
    """Calls /admin/v1 and raises a refusal as one sentence."""

    def __init__(self, url: str | None, key: str | None) -> None:
        key = key or read_variable(CLIENT_KEY_VARIABLE)
        if not key:
            raise click.UsageError(f"There is no key: give --key or set {CLIENT_KEY_VARIABLE}.")
        self._url = (url or read_variable(CLIENT_URL_VARIABLE) or DEFAULT_URL).rstrip("/")
        self._headers = {"authorization": f"Bearer {key}"}

    def call(self, method: str, path: str, **request: Any) -> Any:
        """The response's JSON; None where it is empty.

        Raises:
            Refusal: the server refuses.
            click.ClickException: the server cannot be reached.
        """
        try:
            return self.send(method, path, **request)
        except httpx.HTTPError as error:
            raise click.ClickException(
                f"The server {self._url} cannot be reached: {error}. Check --url."
            ) from error

    def send(self, method: str, path: str, **request: Any) -> Any:
        """Like `call`, for callers that handle a broken connection. Raises: Refusal, httpx.HTTPError."""
        headers = self._headers | request.pop("headers", {})
        response = httpx.request(
            method, f"{self._url}/admin/v1{path}", headers=headers, timeout=600, **request
        )
        if response.is_error:
            raise Refusal(_message(response), response.status_code)
        return response.json() if response.content else None


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code} from {response.request.url}."
