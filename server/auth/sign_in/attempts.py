"""An attempt to sign in: one signed cookie, from which state, nonce and PKCE verifier are derived.

Nothing is stored on the server, so nobody can fill its memory or database with attempts; any server of the registry
can finish what another one has begun.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

from server.errors import SignInFailed

#: A person has this long for the provider's pages.
LIFETIME_S = 600


@dataclass(frozen=True, slots=True)
class Attempt:
    """What binds the provider's answer to one browser."""

    cookie: str
    state: str
    nonce: str
    verifier: str
    """PKCE's code verifier, 43 characters."""


def begin(key: bytes) -> Attempt:
    """A new attempt, which ends in LIFETIME_S."""
    return _attempt(key, f"{secrets.token_urlsafe(32)}.{int(time.time()) + LIFETIME_S}")


def resume(key: bytes, cookie: str, state: str) -> Attempt:
    """The attempt that this browser has begun, if the provider's answer has its state. Raises: SignInFailed."""
    body, _, signature = cookie.rpartition(".")
    if not hmac.compare_digest(signature.encode(), _derived(key, "signature", body).encode()):
        raise SignInFailed(
            "This browser has not begun this sign-in, or not in the last 10 minutes. Sign in again."
        )
    attempt = _attempt(key, body)
    if int(body.rpartition(".")[2]) < time.time():
        raise SignInFailed("The sign-in took longer than 10 minutes. Sign in again.")
    if not hmac.compare_digest(state.encode(), attempt.state.encode()):
        raise SignInFailed("The provider's answer belongs to another sign-in (wrong state). Sign in again.")
    return attempt


def _attempt(key: bytes, body: str) -> Attempt:
    signature = _derived(key, "signature", body)
    values = (_derived(key, purpose, body) for purpose in ("state", "nonce", "verifier"))
    return Attempt(f"{body}.{signature}", *values)


def _derived(key: bytes, purpose: str, body: str) -> str:
    digest = hmac.new(key, f"{purpose}:{body}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
