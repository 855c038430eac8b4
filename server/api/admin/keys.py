"""/admin/v1/keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from starlette.responses import Response

from adapters.models import Role
from server.api.admin.models import KeyInfo, Listing, NewKey
from server.api.admin.permissions import AdminServices, Permissions, Wire, actor, admin_router
from server.api.admin.sliced_listing import json_listing, record_dump
from server.request.context import Caller

#: A year: how far in the future a key's end may be put.
MAX_DELAY_S = 366 * 86400.0


class KeyBody(Wire):
    """A new key; an operator's has no tenant."""

    tenant: str | None = None
    role: Role = Role.INFERENCE
    models: list[str] | None = None
    expires_at: datetime | None = None
    note: str = ""


class KeyChanges(Wire):
    """What to change; null allows all models, or removes the expiry."""

    models: list[str] | None = None
    expires_at: datetime | None = None
    note: str = ""


class RotateBody(Wire):
    """The seconds for which the old key remains valid."""

    overlap_s: Annotated[float, Field(ge=0)] = 0.0


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes."""
    routes = admin_router()
    _add_making(routes, services, guard)
    _add_changes(routes, services, guard)
    return routes


def _add_making(routes: APIRouter, services: AdminServices, guard: Permissions) -> None:
    keys = services.registry.keys
    dump = record_dump(KeyInfo)

    @routes.get("/keys", response_model=Listing[KeyInfo])
    async def list_keys(
        tenant: Annotated[str | None, Query()] = None, caller: Caller = Depends(guard.operator)
    ) -> Response:
        """Keys without their secrets."""
        return json_listing(map(KeyInfo.model_validate, await keys.list(tenant)), dump)

    @routes.post("/keys", status_code=201)
    async def add_key(body: KeyBody, caller: Caller = Depends(guard.operator)) -> NewKey:
        """Create a key; only this answer shows its secret."""
        issued = await keys.issue(
            body.tenant,
            body.role,
            by=actor(caller),
            models=body.models,
            expires_at=body.expires_at,
            note=body.note,
        )
        return NewKey.of(issued)


def _add_changes(routes: APIRouter, services: AdminServices, guard: Permissions) -> None:
    keys = services.registry.keys

    @routes.patch("/keys/{key_id}")
    async def set_key(key_id: str, body: KeyChanges, caller: Caller = Depends(guard.operator)) -> KeyInfo:
        """Change what a key may call, or when it expires; the change takes effect within half a second."""
        changes = body.model_dump(exclude_unset=True)
        return KeyInfo.model_validate(await keys.set(key_id, changes, by=actor(caller)))

    @routes.delete("/keys/{key_id}")
    async def revoke_key(
        key_id: str,
        in_s: Annotated[float, Query(ge=0, le=MAX_DELAY_S)] = 0.0,
        caller: Caller = Depends(guard.operator),
    ) -> KeyInfo:
        """Revoke a key in `in_s` seconds; it is refused within half a second after."""
        return KeyInfo.model_validate(await keys.revoke(key_id, by=actor(caller), in_s=in_s))

    @routes.post("/keys/{key_id}/rotate", status_code=201)
    async def rotate_key(key_id: str, body: RotateBody, caller: Caller = Depends(guard.operator)) -> NewKey:
        """Create a key with the same rights and revoke the old one."""
        issued = await keys.rotate(key_id, by=actor(caller), overlap_s=body.overlap_s)
        return NewKey.of(issued)
