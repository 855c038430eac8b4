"""Who may do what under /admin/v1."""

from __future__ import annotations

from typing import Protocol

from fastapi import Request
from pydantic import BaseModel, ConfigDict
from starlette.datastructures import Headers

from adapters.errors import UnknownTenant
from adapters.lifecycle import Lifecycle
from adapters.models import Actor, Role
from adapters.registry import Registry
from adapters.residency import Residency
from adapters.sources import Source, Uploads, parse_source
from server.config.settings import Settings
from server.engine.base_model import BaseModel as ServedBase
from server.engine.supervisor import State
from server.errors import Forbidden
from server.fairness.policy import Capacity
from server.observability.scheduler_stats import SchedulerStats
from server.request.context import Caller
from server.request.sampling import Decoding
from server.usage.feedback import FeedbackService
from server.usage.recent_requests import RecentFailures


class Service(Protocol):
    """What the admin routes need of the composed server."""

    settings: Settings
    registry: Registry
    lifecycle: Lifecycle
    residency: Residency
    base: ServedBase
    decoding: Decoding
    uploads: Uploads
    live: SchedulerStats
    failures: RecentFailures
    feedback: FeedbackService

    @property
    def state(self) -> State:
        """Where the server stands."""

    @property
    def capacity(self) -> Capacity:
        """What the running engine has to share out."""

    async def identify(self, headers: Headers) -> Caller:
        """Who calls. Raises: Unauthenticated."""


class Wire(BaseModel):
    """Bodies are strict: a misspelt field is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid")


class Permissions:
    """The dependencies that let a caller in."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def operator(self, request: Request) -> Caller:
        """Operators only. Raises: Unauthenticated, Forbidden."""
        caller = await self._service.identify(request.headers)
        if caller.key.role is not Role.OPERATOR:
            raise Forbidden("This needs an operator's key.")
        return caller

    async def manager(self, request: Request) -> Caller:
        """Operators and tenant admins. Raises: Unauthenticated, Forbidden."""
        caller = await self._service.identify(request.headers)
        if caller.key.role is Role.INFERENCE:
            raise Forbidden(
                "This needs a tenant admin's or an operator's key; this key may only call models."
            )
        return caller


def check_tenant(caller: Caller, tenant: str) -> None:
    """A tenant's admin sees its own tenant; any other looks as if it did not exist.

    Raises:
        UnknownTenant
    """
    if caller.key.role is not Role.OPERATOR and caller.tenant_name != tenant:
        raise UnknownTenant(tenant)


def named_source(service: Service, caller: Caller, tenant: str, text: str) -> Source:
    """A source by its name. What a tenant's admin could name, it could read: so only what the operator allows.

    Raises:
        SourceRefused
    """
    if caller.key.role is Role.OPERATOR:
        return parse_source(text, local_roots=None, own_token=True)
    allowed = (part.strip() for part in service.settings.tenant_sources.split(","))
    return parse_source(text, prefixes=[part.replace("{tenant}", tenant) for part in allowed if part])


def seen_tenant(caller: Caller, asked: str | None) -> str | None:
    """The tenant that a listing is of: the caller's own, or what an operator asked for (None: all).

    Raises:
        UnknownTenant: a tenant's admin asked for another.
    """
    if asked is not None:
        check_tenant(caller, asked)
    return asked if caller.key.role is Role.OPERATOR else caller.tenant_name


def actor(caller: Caller) -> Actor:
    """Who the audit shows."""
    return Actor(caller.tenant_name or "operator", caller.key.id)
