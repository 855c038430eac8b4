"""The client that the commands use to call a running server's /admin/v1."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import httpx

from server.config.environment import read_variable
from server.config.variables import CLIENT_KEY_VARIABLE, CLIENT_URL_VARIABLE

DEFAULT_URL = "http://127.0.0.1:8000"
#: An engine that loads a large model takes minutes to start.
ENGINE_WAIT_S = 600.0
_POLL_S = 1.0


_CA_CERT = "loragate.ca_cert"


def _keep_ca_cert(context: click.Context, param: click.Parameter, file: Path | None) -> None:
    if file is None:
        return
    try:
        context.meta[_CA_CERT] = ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError) as error:
        reason = (
            error.strerror if not isinstance(error, ssl.SSLError) else "it has no certificate in PEM form"
        )
        raise click.BadParameter(f"{file} cannot be used: {reason}.", context, param) from error


ca_cert_option = click.option(
    "--ca-cert",
    type=click.Path(path_type=Path),
    expose_value=False,
    callback=_keep_ca_cert,
    help="File with the authority's certificate (PEM) for an https URL. [env: SSL_CERT_FILE; default: the system's]",
)
"""Stored in the command's context, where `AdminClient` finds it."""


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--url`, `--key` and `--ca-cert`."""
    url_help = f"URL of the server. [env: {CLIENT_URL_VARIABLE}; default: {DEFAULT_URL}]"
    key_help = f"Admin or operator key. [env: {CLIENT_KEY_VARIABLE}]"
    command = click.option("--key", default=None, help=key_help)(ca_cert_option(command))
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
        context = click.get_current_context(silent=True)
        self._verify: ssl.SSLContext | bool = context.meta.get(_CA_CERT, True) if context else True

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
                f"The server {self._url} cannot be reached: {error}. {_advice(error)}"
            ) from error

    def wait_for_engine(self, timeout_s: float = ENGINE_WAIT_S) -> None:
        """Return when the server's engine no longer starts, or after `timeout_s`. Raises: as `call`."""
        deadline_s = time.monotonic() + timeout_s
        told = False
        while self.call("GET", "/live")["state"] in ("starting", "restarting"):
            if time.monotonic() > deadline_s:
                return
            if not told:
                click.echo(f"The engine is starting; waiting for it, at most {timeout_s:g} s.", err=True)
            told = True
            time.sleep(_POLL_S)

    def send(self, method: str, path: str, **request: Any) -> Any:
        """Like `call`, for callers that handle a broken connection. Raises: Refusal, httpx.HTTPError."""
        headers = self._headers | request.pop("headers", {})
        response = httpx.request(
            method,
            f"{self._url}/admin/v1{path}",
            headers=headers,
            timeout=600,
            verify=self._verify,
            **request,
        )
        if response.is_error:
            raise Refusal(_message(response), response.status_code)
        return response.json() if response.content else None


def _advice(error: httpx.HTTPError) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "Give --ca-cert the certificate of the authority that issued the server's certificate."
    if isinstance(error, httpx.ConnectError):
        return (
            f"Start one with `loragate serve`, or name the running one with --url or {CLIENT_URL_VARIABLE}."
        )
    return "Check --url, also whether it begins with http or https."


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code} from {response.request.url}."
