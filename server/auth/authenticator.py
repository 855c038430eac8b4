"""Authentication: API key → caller."""

from __future__ import annotations

from collections.abc import Mapping

from adapters.errors import UnknownKey
from adapters.models import Key, Role, Tenant
from adapters.registry import Registry
from adapters.registry.cache import RegistryCache
from adapters.registry.database import utc_now
from sampling.defaults import Layer
from sampling.limits import Limits
from server.errors import Forbidden, Unauthenticated
from server.request.context import Caller

_MAX_KEY_CHARS = 512


class Authenticator:
    """Looks keys up by their hash; a known key is cached, an unknown one always costs a query."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._callers: RegistryCache[str, Caller] = RegistryCache(
            registry.availability, self._look_up, lambda: registry.changes("key", "tenant")
        )

    async def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """Who sent these headers (`Authorization: Bearer …`, or `x-api-key` as Anthropic's SDK does).

        Raises:
            Unauthenticated: the key is missing, unknown, expired or revoked; the error does not say which.
            RegistryUnavailable: the database does not answer, and the key is not cached or the grace is over.
        """
        secret = _secret_in(headers)
        try:
            caller = await self._callers.get(secret)
        except UnknownKey as error:
            raise Unauthenticated from error
        if not caller.key.is_valid(utc_now()):
            raise Unauthenticated
        return caller

    async def operator(self, headers: Mapping[str, str]) -> Caller:
        """The caller, who must be an operator. Raises: Unauthenticated, Forbidden."""
        caller = await self.authenticate(headers)
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


def _secret_in(headers: Mapping[str, str]) -> str:
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        secret = headers.get("x-api-key", "")
    secret = secret.strip()
    if not secret:
        raise Unauthenticated(
            "No API key was sent: use `Authorization: Bearer <key>`; an operator makes keys with `loragate key add`."
        )
    if len(secret) > _MAX_KEY_CHARS:
        raise Unauthenticated
    return secret
