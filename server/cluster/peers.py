"""Asks the other servers on the registry for what each keeps in its own memory, such as the history of its requests.

A question is signed with a key that all servers on the registry have (HMAC-SHA256 over who is asked, what, and when),
so that neither a caller's key nor a lasting secret goes to an address from the database. The front of several servers
passes nothing under /internal/ on.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from adapters.errors import RegistryUnavailable
from adapters.registry.replicas.membership import Membership, Replica
from adapters.registry.replicas.shared_secrets import SharedSecrets

HISTORY, REQUEST = "/internal/history", "/internal/request"
#: Name of the key in the registry.
KEY_NAME = "peers"
#: Most time for all answers: a page waits for them.
TIMEOUT_S = 1.5
_MAX_ANSWER_BYTES = 4 << 20
#: How old a signature may be; the clocks of the servers may differ by so much.
_VALID_S = 60.0


@dataclass(frozen=True, slots=True)
class PeerAnswers:
    """What the other servers say."""

    answers: tuple[tuple[str, Any], ...] = ()
    """The id of a server, and its answer; None: it has nothing."""
    missing: tuple[str, ...] = ()
    """Ids of the servers that did not answer in time; `registry`: it is not known which others there are."""


class Peers:
    """Asks, and checks who asks.

    Args:
        membership: who lives, and this server.
        secrets: has the key, the same for all.
        tls_cert: this server's certificate; with HTTPS the others must have the same.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        membership: Membership,
        secrets: SharedSecrets,
        tls_cert: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._membership = membership
        self._secrets = secrets
        self._tls_cert = tls_cert
        self._clock = clock
        self._key: bytes | None = None

    @property
    def own_id(self) -> str:
        """This server's id."""
        return self._membership.own.id

    async def ask(self, path: str, params: Mapping[str, str | None]) -> PeerAnswers:
        """Ask all others the same, at once; None is left out of `params`. Takes at most `TIMEOUT_S`."""
        if not self._membership.is_shared:
            return PeerAnswers()
        asked = str(httpx.QueryParams({name: value for name, value in params.items() if value is not None}))
        try:
            key = await self._secret()
            others = [server for server in await self._membership.live() if server.id != self.own_id]
        except RegistryUnavailable:
            return PeerAnswers(missing=("registry",))
        if not others:
            return PeerAnswers()
        async with httpx.AsyncClient(verify=self._trust(), trust_env=False) as http:
            found = await asyncio.gather(
                *(self._one(http, key, server, f"{path}?{asked}") for server in others),
                return_exceptions=True,
            )
        pairs = list(zip(others, found, strict=True))
        for _, answer in pairs:
            if isinstance(answer, BaseException) and not isinstance(answer, _FAILURES):
                raise answer
        return PeerAnswers(
            tuple((server.id, answer) for server, answer in pairs if not isinstance(answer, BaseException)),
            tuple(server.id for server, answer in pairs if isinstance(answer, BaseException)),
        )

    async def accepts(self, path: str, query: str, signature: str) -> bool:
        """Whether another server has asked this one for that, just now. Raises: RegistryUnavailable."""
        sent_at, _, mac = signature.rpartition(".")
        try:
            age_s = abs(self._clock() - float(sent_at))
        except ValueError:
            return False
        expected = _mac(await self._secret(), self.own_id, f"{path}?{query}", sent_at)
        return hmac.compare_digest(mac.encode(), expected.encode()) and age_s <= _VALID_S

    async def _one(self, http: httpx.AsyncClient, key: bytes, server: Replica, target: str) -> Any:
        sent_at = f"{self._clock():.3f}"
        headers = {"x-loragate-peer": f"{sent_at}.{_mac(key, server.id, target, sent_at)}"}
        async with asyncio.timeout(TIMEOUT_S):
            async with http.stream("GET", server.url + target, headers=headers) as answer:
                body = bytearray()
                async for piece in answer.raise_for_status().aiter_bytes():
                    body += piece
                    if len(body) > _MAX_ANSWER_BYTES:
                        raise ValueError("the answer is too long")
        return json.loads(body)

    async def _secret(self) -> bytes:
        if self._key is None:
            self._key = await self._secrets.get(KEY_NAME)
        return self._key

    def _trust(self) -> ssl.SSLContext:
        """With HTTPS: the certificate that all servers share, whatever its name; the machine's are not read."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self._tls_cert is not None:
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.load_verify_locations(self._tls_cert)
        return context


_FAILURES = (httpx.HTTPError, TimeoutError, ValueError, OSError)


def _mac(key: bytes, server: str, target: str, sent_at: str) -> str:
    return hmac.new(key, f"{server}\n{target}\n{sent_at}".encode(), sha256).hexdigest()
