"""The cookies of people who sign in, and the token against requests that other sites make with them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import cookie_parser

from server.config.settings import Settings
from server.errors import Forbidden

#: The header with which a page proves that it is the console: pages of other sites cannot read its value.
CSRF_HEADER = "x-csrf-token"
_MAX_CHARS = 512
#: A browser takes such a name only from this host, over HTTPS, for all of its paths.
_SECURE_PREFIX = "__Host-"


@dataclass(frozen=True, slots=True)
class CookieNames:
    """The names of the two cookies; with HTTPS they begin with `__Host-`."""

    session: str
    attempt: str
    is_secure: bool

    @classmethod
    def of(cls, settings: Settings) -> CookieNames:
        """For the URL at which browsers reach the server."""
        is_secure = settings.public_url.startswith("https://")
        prefix = _SECURE_PREFIX if is_secure else ""
        return cls(f"{prefix}loragate-session", f"{prefix}loragate-sign-in", is_secure)


def cookie_in(headers: Mapping[str, str], name: str) -> str:
    """The value of a cookie; "" where there is none."""
    return cookie_parser(headers.get("cookie", "")).get(name, "")[:_MAX_CHARS]


def csrf_token(secret: str) -> str:
    """The token of a session; it does not reveal the session's secret."""
    return hmac.new(secret.encode("utf-8", "surrogatepass"), b"csrf", hashlib.sha256).hexdigest()


def check_csrf(headers: Mapping[str, str], secret: str) -> None:
    """Every request with the cookie needs the token, whatever its method. Raises: Forbidden."""
    given = headers.get(CSRF_HEADER, "").encode("latin-1", "replace")
    if not hmac.compare_digest(given, csrf_token(secret).encode()):
        raise Forbidden(
            f"A request with the session's cookie needs the token of /console/session in the header {CSRF_HEADER}, "
            "so that no other site can make it; programs use a key."
        )
