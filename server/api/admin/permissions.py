"""Permissions of the admin routes, and the parts of the server that they use."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from adapters.depot.shared_uploads import SharedUploads
from adapters.errors import UnknownTenant
from adapters.lifecycle import Lifecycle
from adapters.models import Actor, Role
from adapters.registry import Registry
from adapters.residency import Residency
from adapters.sources import Source, Uploads, parse_source
from server.admission import Admission
from server.api.replica import ReplicaReporter
from server.auth.authenticator import Authenticator
from server.background.evaluations.service import EvaluationService
from server.cluster.peers import Peers
from server.config.settings import Settings
from server.engine.base_model import BaseModel as ServedBase
from server.errors import Forbidden
from server.observability.history import History
from server.observability.readiness import Readiness
from server.observability.scheduler_stats import SchedulerStats
from server.request.context import Caller
from server.request.sampling import SamplingResolver
from server.usage.request_log import RequestLog
from server.usage.shared_failures import SharedFailures


@dataclass(frozen=True, slots=True)
class AdminServices:
    """The parts of the server that the admin routes use."""

    settings: Settings
    registry: Registry
    lifecycle: Lifecycle
    residency: Residency
    base: ServedBase
    sampling: SamplingResolver
    uploads: Uploads | SharedUploads
    admission: Admission
    readiness: Readiness
    scheduler_stats: SchedulerStats
    failures: SharedFailures
    evaluations: EvaluationService
    history: History
    request_log: RequestLog
    peers: Peers
    reporter: ReplicaReporter


def admin_router(prefix: str = "") -> APIRouter:
    """A router whose routes have their whole path: including it in another one would make each route again."""
    return APIRouter(prefix=f"/admin/v1{prefix}", tags=["admin"])


class Wire(BaseModel):
    """A request body; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")


class Permissions:
    """FastAPI dependencies that check the caller's role."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def operator(self, request: Request) -> Caller:
        """Operators only. Raises: Unauthenticated, Forbidden."""
        return await self._authenticator.operator(request.headers, reads=_reads(request))

    async def manager(self, request: Request) -> Caller:
        """Operators and tenant admins. Raises: Unauthenticated, Forbidden."""
        caller = await self._authenticator.authenticate(request.headers, reads=_reads(request))
        if caller.key.role is Role.INFERENCE:
            raise Forbidden(
                "This needs a tenant admin's or an operator's key; this key may only call models."
            )
        return caller


def _reads(request: Request) -> bool:
    return request.method in ("GET", "HEAD")


def check_tenant(caller: Caller, tenant: str) -> None:
    """Let a tenant's admin see its own tenant only; any other one does not exist for it. Raises: UnknownTenant."""
    if caller.key.role is not Role.OPERATOR and caller.tenant_name != tenant:
        raise UnknownTenant(tenant)


def named_source(services: AdminServices, caller: Caller, tenant: str, text: str) -> Source:
    """A source by its name. A tenant's admin could read any source it can name, so the operator restricts them.

    Raises: SourceRefused.
    """
    if caller.key.role is Role.OPERATOR:
        return parse_source(text, local_roots=None, own_token=True)
    allowed = (part.strip() for part in services.settings.tenant_sources.split(","))
    return parse_source(text, prefixes=[part.replace("{tenant}", tenant) for part in allowed if part])


def seen_tenant(caller: Caller, asked: str | None) -> str | None:
    """The tenant whose rows a listing shows: the caller's own, or the one an operator asked for (None: all).

    Raises:
        UnknownTenant: a tenant's admin asked for another.
    """
    if asked is not None:
        check_tenant(caller, asked)
    return asked if caller.key.role is Role.OPERATOR else caller.tenant_name


def actor(caller: Caller) -> Actor:
    """The caller as the audit log shows it."""
    return Actor(caller.person or caller.tenant_name or "operator", caller.key.id)
