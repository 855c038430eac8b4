"""The OpenID Connect provider: its addresses and keys, the exchange of a code, and the check of an ID token."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import httpx2
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from server.auth.sign_in.attempts import Attempt
from server.config.settings import Settings
from server.config.sign_in import check_secure
from server.errors import ProviderUnavailable, SignInFailed

logger = logging.getLogger("loragate.sign_in")

_TIMEOUT_S = 10.0
#: Addresses and keys are read again after this time; for an unknown key at once, but not within _PAUSE_S.
_FRESH_S = 3600.0
#: After a failure nobody waits for the provider again for this long.
_PAUSE_S = 5.0
#: Clocks may differ by this much.
_LEEWAY_S = 60
#: Codes that are exchanged at the same time: callers without a key must not keep the server busy.
_MAX_EXCHANGES = 16
#: Signatures with the provider's private key only: never `none`, nor a secret that others know.
_ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")


class Provider:
    """One provider; it is asked when somebody signs in, so the server starts and works by key without it."""

    def __init__(self, settings: Settings) -> None:
        self._issuer, self._client_id = settings.sign_in_issuer, settings.sign_in_client_id
        self._settings = settings
        self._redirect_uri = f"{settings.public_url.rstrip('/')}/console/sign-in/callback"
        self._metadata: Mapping[str, Any] = {}
        self._keys = KeySet([])
        self._read_at_s = self._failed_at_s = -_FRESH_S
        self._reading = asyncio.Lock()
        self._exchanges = asyncio.Semaphore(_MAX_EXCHANGES)

    async def authorization_url(self, attempt: Attempt) -> str:
        """Where the browser goes. Raises: ProviderUnavailable."""
        await self._refresh()
        async with self._client() as client:
            url, _ = client.create_authorization_url(
                self._metadata["authorization_endpoint"],
                state=attempt.state,
                nonce=attempt.nonce,
                code_verifier=attempt.verifier,
            )
        return str(url)

    async def claims(self, code: str, attempt: Attempt) -> Mapping[str, Any]:
        """The verified claims of the person whose code this is.

        Raises:
            SignInFailed: the provider refuses the code, or its ID token is not for us, now, and this attempt.
            ProviderUnavailable: it does not answer, or too many people sign in at once.
        """
        if self._exchanges.locked():
            raise ProviderUnavailable("Too many people are signing in at the same time; try again shortly.")
        async with self._exchanges:
            await self._refresh()
            token = await self._exchange(code, attempt)
            try:
                return await self._verified(token, attempt)
            except (JoseError, ValueError, TypeError, KeyError) as error:
                reason = f"{type(error).__name__}: {error}"
                logger.warning("An ID token was refused: %s", reason)
                raise SignInFailed(
                    f"The provider's ID token is not valid ({_said(error)}). Sign in again."
                ) from error

    def _client(self) -> AsyncOAuth2Client:
        offered = self._metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        method = "client_secret_basic" if "client_secret_basic" in offered else "client_secret_post"
        return AsyncOAuth2Client(
            client_id=self._client_id,
            client_secret=self._settings.sign_in_client_secret,
            token_endpoint_auth_method=method,
            scope=self._settings.sign_in_scopes,
            redirect_uri=self._redirect_uri,
            code_challenge_method="S256",
            timeout=_TIMEOUT_S,
        )

    async def _exchange(self, code: str, attempt: Attempt) -> Mapping[str, Any]:
        try:
            async with self._client() as client:
                token: Mapping[str, Any] = await client.fetch_token(
                    self._metadata["token_endpoint"], code=code, code_verifier=attempt.verifier
                )
        except OAuthError as error:
            logger.warning("The provider refused a code: %s %s", error.error, error.description)
            raise SignInFailed("The provider refused the code of this sign-in. Sign in again.") from error
        except (httpx2.HTTPError, ValueError) as error:
            raise self._unavailable(error) from error
        if not isinstance(token.get("id_token"), str):
            raise SignInFailed("The provider sent no ID token; ask an operator to look at --sign-in-scopes.")
        return token

    async def _verified(self, token: Mapping[str, Any], attempt: Attempt) -> Mapping[str, Any]:
        """Raises: JoseError, ValueError: the token is not valid."""
        offered = self._metadata.get("id_token_signing_alg_values_supported", ["RS256"])
        algorithms = [name for name in _ALGORITHMS if name in offered]
        try:
            decoded = jwt.decode(token["id_token"], self._keys, algorithms=algorithms)
        except (JoseError, ValueError):
            if time.monotonic() - self._read_at_s < _PAUSE_S:
                raise
            await self._refresh(fresh_s=_PAUSE_S)  # the provider may have a new key
            decoded = jwt.decode(token["id_token"], self._keys, algorithms=algorithms)
        options = {
            "iss": {"essential": True, "value": self._issuer},
            "aud": {"essential": True, "value": self._client_id},
        }
        params = {
            "nonce": attempt.nonce,
            "client_id": self._client_id,
            "access_token": token.get("access_token"),
        }
        claims = CodeIDToken(decoded.claims, decoded.header, options, params)
        claims.validate(leeway=_LEEWAY_S)
        return dict(claims)

    async def _refresh(self, fresh_s: float = _FRESH_S) -> None:
        """Read addresses and keys if they are older than `fresh_s`. Raises: ProviderUnavailable."""
        async with self._reading:
            now_s = time.monotonic()
            if now_s - self._read_at_s < fresh_s:
                return
            if now_s - self._failed_at_s < _PAUSE_S:
                raise ProviderUnavailable
            try:
                self._metadata, self._keys = await self._read()
            except (httpx2.HTTPError, JoseError, ValueError, TypeError, KeyError) as error:
                self._failed_at_s = time.monotonic()
                raise self._unavailable(error) from error
            self._read_at_s = now_s

    async def _read(self) -> tuple[Mapping[str, Any], KeySet]:
        async with httpx2.AsyncClient(timeout=_TIMEOUT_S) as client:
            address = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
            metadata = (await client.get(address)).raise_for_status().json()
            if metadata["issuer"] != self._issuer:
                raise ValueError(f"It calls itself {metadata['issuer']!r}: set --sign-in-issuer to that.")
            for name in _ENDPOINTS:
                check_secure(name, metadata[name])
            keys = (await client.get(metadata["jwks_uri"])).raise_for_status().json()
        return metadata, KeySet.import_key_set(keys)

    def _unavailable(self, error: Exception) -> ProviderUnavailable:
        logger.warning("The provider %s cannot be used: %s: %s", self._issuer, type(error).__name__, error)
        return ProviderUnavailable()


def _said(error: Exception) -> str:
    """What is wrong with a token, in the library's word: `expired_token`, or `invalid_claim: nonce`."""
    claim = getattr(error, "claim", "")
    return f"{getattr(error, 'error', 'unreadable')}{f': {claim}' if claim else ''}"
