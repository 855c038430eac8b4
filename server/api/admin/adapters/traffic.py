"""/admin/v1/adapters/{tenant}/{name}/promote, split and rollback: which versions answer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field

from adapters.models import AliasTarget
from adapters.promotion.condition import MAX_CHARACTERS
from server.api.admin.models import ChangedAlias
from server.api.admin.permissions import AdminServices, Permissions, Wire, actor, admin_router, check_tenant
from server.api.admin.views import changed_alias
from server.request.context import Caller

#: What the figures of the versions that get traffic must meet, beside the adapter's own condition.
Condition = Annotated[str | None, Field(alias="if", max_length=MAX_CHARACTERS)]


class PromoteBody(Wire):
    """All traffic to one version."""

    version: Annotated[int, Field(ge=1)]
    expected_generation: int | None = None
    condition: Condition = None


class SplitBody(Wire):
    """Traffic by weight: version → weight."""

    weights: dict[int, Annotated[float, Field(gt=0)]]
    expected_generation: int | None = None
    condition: Condition = None


class RollbackBody(Wire):
    """Back to the version that was served before."""

    expected_generation: int | None = None


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes that move an adapter's traffic: /admin/v1/adapters/{tenant}/{name}/promote, /split and /rollback."""
    routes = admin_router("/adapters")
    _add_promotion(routes, services, guard)
    _add_split(routes, services, guard)
    return routes


def _add_promotion(routes: APIRouter, services: AdminServices, guard: Permissions) -> None:
    lifecycle = services.lifecycle

    @routes.post("/{tenant}/{name}/promote")
    async def promote(
        tenant: str, name: str, body: PromoteBody, caller: Caller = Depends(guard.manager)
    ) -> ChangedAlias:
        """Send all traffic to one version, after it was loaded and probed.

        `if` is a condition on the figures of its evaluations, such as `calls_right >= @current - 0.01`; refused with
        `condition_not_met`, as without it where the adapter has a condition of its own.
        """
        check_tenant(caller, tenant)
        alias = await lifecycle.promote(
            tenant,
            name,
            body.version,
            by=actor(caller),
            expected_generation=body.expected_generation,
            condition=body.condition,
        )
        return changed_alias(alias)


def _add_split(routes: APIRouter, services: AdminServices, guard: Permissions) -> None:
    lifecycle = services.lifecycle

    @routes.post("/{tenant}/{name}/split")
    async def split(
        tenant: str, name: str, body: SplitBody, caller: Caller = Depends(guard.manager)
    ) -> ChangedAlias:
        """Split the traffic between versions by weight; `if` holds for those that have none yet."""
        check_tenant(caller, tenant)
        targets = [AliasTarget(number, weight) for number, weight in sorted(body.weights.items())]
        alias = await lifecycle.split(
            tenant,
            name,
            targets,
            by=actor(caller),
            expected_generation=body.expected_generation,
            condition=body.condition,
        )
        return changed_alias(alias)

    @routes.post("/{tenant}/{name}/rollback")
    async def rollback(
        tenant: str, name: str, body: RollbackBody, caller: Caller = Depends(guard.manager)
    ) -> ChangedAlias:
        """Send all traffic to the version that had it before."""
        check_tenant(caller, tenant)
        alias = await lifecycle.rollback(
            tenant, name, by=actor(caller), expected_generation=body.expected_generation
        )
        return changed_alias(alias)
