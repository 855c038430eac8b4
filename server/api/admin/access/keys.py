"""/admin/v1/keys: operators manage all keys, a tenant's admin those of its tenant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import ConfigDict, Field
from starlette.responses import Response

from adapters.errors import UnknownKey
from adapters.models import Key, Role
from adapters.registry import Registry
from adapters.registry.access.keys import check_expiry
from adapters.tenant_settings import KeyLimits
from server.api.admin.models import KeyInfo, Listing, NewKey
from server.api.admin.permissions import (
    AdminServices,
    Permissions,
    Wire,
    actor,
    admin_router,
    check_tenant,
    seen_tenant,
)
from server.api.admin.sliced_listing import json_listing, record_dump
from server.errors import Forbidden
from server.request.context import Caller

#: A year: how far in the future a key's end may be put.
MAX_DELAY_S = 366 * 86400.0


class KeyBody(Wire):
    """A new key; an operator's has no tenant. A tenant's admin may leave out its own tenant."""

    tenant: str | None = None
    role: Role = Role.INFERENCE
    models: list[str] | None = None
    expires_at: datetime | None = None
    note: str = ""
    limits: dict[str, Any] = Field(default_factory=dict)


class KeyChanges(Wire):
    """What to change, also limits by their names; null allows all models, or removes the expiry or the limit."""

    model_config = ConfigDict(extra="allow")

    models: list[str] | None = None
    expires_at: datetime | None = None
    note: str = ""


class RotateBody(Wire):
    """The seconds for which the old key remains valid."""

    overlap_s: Annotated[float, Field(ge=0)] = 0.0


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes of keys: /admin/v1/keys."""
    routes = admin_router()
    _add_making(routes, services, guard)
    _add_changes(routes, services, guard)
    return routes


def _add_making(routes: APIRouter, services: AdminServices, guard: Permissions) -> None:
    keys = services.registry.keys
    dump = record_dump(KeyInfo)

    @routes.get("/keys", response_model=Listing[KeyInfo])
    async def list_keys(
        tenant: Annotated[str | None, Query()] = None, caller: Caller = Depends(guard.manager)
    ) -> Response:
        """Keys without their secrets."""
        seen = seen_tenant(caller, tenant)
        return json_listing(map(KeyInfo.model_validate, await keys.list(seen)), dump)

    @routes.post("/keys", status_code=201)
    async def add_key(body: KeyBody, caller: Caller = Depends(guard.manager)) -> NewKey:
        """Create a key; only this answer shows its secret."""
        tenant = body.tenant
        if caller.key.role is not Role.OPERATOR:
            tenant = caller.tenant_name if tenant is None else tenant
            check_tenant(caller, tenant)
            _check_rights(caller.key, body.role, body.models, body.expires_at)
        issued = await keys.issue(
            tenant,
            body.role,
            by=actor(caller),
            models=body.models,
            expires_at=body.expires_at,
            note=body.note,
            limits=KeyLimits.parse(body.limits),
        )
        return NewKey.of(issued)


def _add_changes(routes: APIRouter, services: AdminServices, guard: Permissions) -> None:
    """The routes that change one key."""
    registry, keys = services.registry, services.registry.keys

    @routes.patch("/keys/{key_id}")
    async def set_key(key_id: str, body: KeyChanges, caller: Caller = Depends(guard.manager)) -> KeyInfo:
        """Change models, expiry, note and limits of a key; the change takes effect within half a second."""
        changes, own = body.model_dump(exclude_unset=True), caller.key
        key = await _managed(registry, caller, key_id)
        if own.role is not Role.OPERATOR:
            models, expires_at = changes.get("models", own.models), changes.get("expires_at", own.expires_at)
            _check_rights(own, key.role, models, expires_at)
        return KeyInfo.model_validate(await keys.set(key_id, changes, by=actor(caller)))

    @routes.delete("/keys/{key_id}")
    async def revoke_key(
        key_id: str,
        in_s: Annotated[float, Query(ge=0, le=MAX_DELAY_S)] = 0.0,
        caller: Caller = Depends(guard.manager),
    ) -> KeyInfo:
        """Revoke a key in `in_s` seconds; it is refused within half a second after."""
        await _managed(registry, caller, key_id)
        return KeyInfo.model_validate(await keys.revoke(key_id, by=actor(caller), in_s=in_s))

    @routes.post("/keys/{key_id}/rotate", status_code=201)
    async def rotate_key(key_id: str, body: RotateBody, caller: Caller = Depends(guard.manager)) -> NewKey:
        """Create a key with the same rights, limits and usage so far, and revoke the old one."""
        old = await _managed(registry, caller, key_id)
        if caller.key.role is not Role.OPERATOR:
            _check_rights(caller.key, old.role, old.models, old.expires_at)
        issued = await keys.rotate(key_id, by=actor(caller), overlap_s=body.overlap_s)
        return NewKey.of(issued)


async def _managed(registry: Registry, caller: Caller, key_id: str) -> Key:
    """The key, if the caller manages it; another tenant's does not exist. Raises: UnknownKey."""
    key = await registry.keys.get(key_id)
    if caller.key.role is not Role.OPERATOR and key.tenant != caller.tenant_name:
        raise UnknownKey(key_id)
    return key


def _check_rights(own: Key, role: Role, models: Sequence[str] | None, expires_at: datetime | None) -> None:
    """A tenant's admin gets no secret of a key that may do more, or lives longer, than its own. Raises: Forbidden."""
    if role is Role.OPERATOR:
        raise Forbidden("A tenant's admin makes keys with the role inference or tenant_admin.")
    if own.models is not None and (models is None or not set(models) <= set(own.models)):
        raise Forbidden(
            f"Your key may call {', '.join(own.models) or 'no model'}; name in `models` only some of these."
        )
    check_expiry(expires_at)
    if own.expires_at is not None and (expires_at is None or expires_at > own.expires_at):
        raise Forbidden(
            f"Your key expires at {own.expires_at.isoformat()}; set `expires_at` to that moment or an earlier one."
        )
