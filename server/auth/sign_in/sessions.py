"""From the cookie of a person who signed in to the caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adapters.errors import UnknownKey, UnknownTenant
from adapters.models import Key, Tenant
from adapters.registry import Registry
from adapters.registry.access.sessions import Session
from adapters.registry.cache import RegistryCache
from adapters.registry.database import utc_now
from sampling.defaults import Layer
from sampling.limits import NO_LIMITS, Limits
from sampling.resolution import NO_DEFAULTS
from server.auth.sign_in.cookies import CookieNames, check_csrf, cookie_in
from server.config.settings import Settings
from server.config.sign_in import digest_of
from server.errors import Unauthenticated
from server.request.context import Caller

_OVER = "This session is over. Sign in again."


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session, and the caller that it makes."""

    session: Session
    caller: Caller


class SessionCallers:
    """Looks sessions up by the hash of their cookie; a known one is cached until something changes."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._names = CookieNames.of(settings)
        self._digest = digest_of(settings)
        self._known: RegistryCache[str, SignedIn] = RegistryCache(
            registry.availability, self._look_up, lambda: registry.changes("session", "tenant")
        )

    def secret_in(self, headers: Mapping[str, str]) -> str:
        """The session's cookie; "" where there is none, or where nobody can sign in."""
        return cookie_in(headers, self._names.session) if self._digest else ""

    async def caller(self, headers: Mapping[str, str], secret: str) -> Caller:
        """Who sent these headers with this cookie.

        Raises: Forbidden: without the token; Unauthenticated: the session is over; RegistryUnavailable.
        """
        check_csrf(headers, secret)
        return (await self.signed_in(secret)).caller

    async def signed_in(self, secret: str) -> SignedIn:
        """The session of this cookie. Raises: Unauthenticated: it is over; RegistryUnavailable."""
        try:
            found = await self._known.get(secret)
        except (UnknownKey, UnknownTenant) as error:
            raise Unauthenticated(_OVER) from error
        if found.session.expires_at <= utc_now() or found.session.settings_digest != self._digest:
            raise Unauthenticated(_OVER)
        return found

    async def _look_up(self, secret: str) -> SignedIn:
        session = await self._registry.sessions.find(secret)
        tenant = await self._registry.tenants.get(session.tenant) if session.tenant else None
        return SignedIn(session, _caller(session, tenant))


def _caller(session: Session, tenant: Tenant | None) -> Caller:
    key = Key(
        id=session.id,
        tenant=session.tenant,
        role=session.role,
        prefix=session.name,
        sha256="",
        models=None,
        expires_at=None,  # the session ends, but what the person makes may last longer
        revoked_at=None,
        created_at=session.created_at,
        note=session.name,
        account=session.account,
    )
    defaults, limits = NO_DEFAULTS, NO_LIMITS
    if tenant is not None:
        defaults = Layer("tenant", tenant.settings.sampling_defaults)
        limits = Limits(**tenant.settings.limits)
    return Caller(key, tenant, defaults, limits, person=session.actor.name, read_only=session.read_only)
