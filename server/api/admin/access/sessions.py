"""/admin/v1/sessions: who is signed in; a tenant's admin sees and ends the sessions of its own people."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict

from adapters.models import Role
from server.api.admin.models import Listing
from server.api.admin.permissions import AdminServices, Permissions, actor, admin_router, seen_tenant
from server.request.context import Caller


class SessionDetails(BaseModel):
    """A session of a person who signed in."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    account: str
    """The person: the same in all of the person's sessions."""
    name: str
    role: Role
    tenant: str | None
    read_only: bool
    created_at: datetime
    expires_at: datetime


class EndedSessions(BaseModel):
    """How many sessions were ended."""

    ended: int


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes."""
    routes = admin_router()
    sessions = services.registry.sessions

    @routes.get("/sessions")
    async def list_sessions(caller: Caller = Depends(guard.manager)) -> Listing[SessionDetails]:
        """The sessions that are not over, oldest first."""
        found = await sessions.list(seen_tenant(caller, None))
        return Listing(data=[SessionDetails.model_validate(session) for session in found])

    @routes.delete("/sessions")
    async def end_sessions(
        account: Annotated[str, Query(max_length=32)], caller: Caller = Depends(guard.manager)
    ) -> EndedSessions:
        """End all sessions of a person; they are refused within half a second."""
        ended = await sessions.end_all(account, by=actor(caller), tenant=seen_tenant(caller, None))
        return EndedSessions(ended=ended)

    return routes
