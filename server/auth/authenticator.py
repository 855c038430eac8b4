"""Authentication: API key, or the session of a person who signed in → caller."""

from __future__ import annotations

from collections.abc import Mapping

from adapters.errors import UnknownKey
from adapters.models import Key, Role, Tenant
from adapters.registry import Registry
from adapters.registry.cache import RegistryCache
from adapters.registry.database import utc_now
from sampling.defaults import Layer
from sampling.limits import Limits
from server.auth.sign_in.sessions import SessionCallers
from server.config.settings import Settings
from server.errors import Forbidden, Unauthenticated
from server.request.context import Caller

_MAX_KEY_CHARS = 512
_NO_KEY = (
    "No API key was sent: use `Authorization: Bearer <key>`; an operator makes keys with `loragate key add`."
)


class Authenticator:
    """Looks keys up by their hash; a known key is cached, an unknown one always costs a query."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self.sessions = SessionCallers(registry, settings)
        self._registry = registry
        self._callers: RegistryCache[str, Caller] = RegistryCache(
            registry.availability, self._look_up, lambda: registry.changes("key", "tenant")
        )

    async def authenticate(self, headers: Mapping[str, str], *, reads: bool = False) -> Caller:
        """Who sent these headers (`Authorization: Bearer …`, `x-api-key` as Anthropic's SDK does, or the console's
        session).

        Args:
            headers: of the request.
            reads: whether the request only looks at something, which every role may.

        Raises:
            Unauthenticated: the key is missing, unknown, expired or revoked; the error does not say which.
            Forbidden: a session without its token, or one that may only read.
            RegistryUnavailable: the database does not answer, and the key is not cached or the grace is over.
        """
        secret = _key_in(headers)
        if not secret and (cookie := self.sessions.secret_in(headers)):
            return _checked(await self.sessions.caller(headers, cookie), reads)
        if not secret:
            raise Unauthenticated(_NO_KEY)
        try:
            caller = await self._callers.get(secret)
        except UnknownKey as error:
            raise Unauthenticated from error
        if not caller.key.is_valid(utc_now()):
            raise Unauthenticated
        return caller

    async def operator(self, headers: Mapping[str, str], *, reads: bool = False) -> Caller:
        """The caller, who must be an operator. Raises: Unauthenticated, Forbidden."""
        caller = await self.authenticate(headers, reads=reads)
        if caller.key.role is not Role.OPERATOR:
            raise Forbidden("This needs an operator's key.")
        return caller

    async def _look_up(self, secret: str) -> Caller:
        key: Key = await self._registry.keys.find(secret)
        if key.tenant is None:
            return Caller(key, None)
        tenant: Tenant = await self._registry.tenants.get(key.tenant)
        settings = tenant.settings
        return Caller(
            key,
            tenant,
            defaults=Layer("tenant", settings.sampling_defaults),
            limits=Limits(**settings.limits),
        )


def _checked(caller: Caller, reads: bool) -> Caller:
    """Raises: Forbidden."""
    if caller.read_only and not reads:
        raise Forbidden(f"{caller.key.note} may look at things here and change nothing; ask an operator.")
    return caller


def _key_in(headers: Mapping[str, str]) -> str:
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        secret = headers.get("x-api-key", "")
    secret = secret.strip()
    if len(secret) > _MAX_KEY_CHARS:
        raise Unauthenticated
    return secret
