"""/admin/v1/adapters/{tenant}/{name}/evaluations and condition: versions on held-out chats, what they must reach."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from adapters.promotion.condition import MAX_CHARACTERS, Condition
from server.api.admin.adapters.evaluation_info import EvaluationInfo
from server.api.admin.models import Listing
from server.api.admin.permissions import AdminServices, Permissions, Wire, actor, admin_router, check_tenant
from server.api.middleware.body_reader import is_upload
from server.background.evaluations.options import EvaluationOptions
from server.errors import InvalidRequest
from server.request.context import Caller

DEFAULT = EvaluationOptions()


class ConditionBody(Wire):
    """What the figures of a version must meet before it gets traffic, such as `calls_right >= @current - 0.01`."""

    condition: str = Field(alias="if", max_length=MAX_CHARACTERS)


class ConditionInfo(Wire):
    """An adapter's condition; null: it has none."""

    condition: str | None


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The routes of evaluations and of the condition for traffic, below /admin/v1/adapters/{tenant}/{name}."""
    routes = admin_router("/adapters/{tenant}/{name}")
    _add_evaluations(routes, services, guard)
    _add_reading(routes, services, guard)
    _add_condition(routes, services, guard)
    return routes


def _add_evaluations(routes: APIRouter, services: AdminServices, guard: Permissions) -> None:
    evaluations, service = services.registry.evaluations, services.evaluations

    @routes.post("/versions/{number}/evaluations", status_code=202)
    async def evaluate(
        tenant: str,
        name: str,
        number: int,
        request: Request,
        turns: Annotated[int, Query(ge=1, le=2000)] = DEFAULT.turns,
        max_tokens: Annotated[int, Query(ge=1, le=8192)] = DEFAULT.max_tokens,
        judge: Annotated[str | None, Query(max_length=32)] = None,
        caller: Caller = Depends(guard.manager),
    ) -> EvaluationInfo:
        """Evaluate a version on held-out chats: JSON lines as application/octet-stream; the first `turns` count.

        `judge` is one of the operator's; it compares the answers with the expected ones, and reads both.
        It runs in the background, takes only what requests leave, and is counted under the caller's name. The same
        chats and options again are the same evaluation: a finished one is shown, another goes on where it was left.
        """
        check_tenant(caller, tenant)
        version = await services.registry.versions.get(tenant, name, number)
        if not is_upload(request.headers):
            raise InvalidRequest("Send the chats as a body of the type application/octet-stream.")
        options = EvaluationOptions(turns, max_tokens, judge)
        begun = await service.begin(version, request.stream(), options, asker=caller.tenant, by=actor(caller))
        return EvaluationInfo.model_validate(begun)

    @routes.delete("/evaluations/{evaluation}")
    async def cancel_evaluation(
        tenant: str, name: str, evaluation: str, caller: Caller = Depends(guard.manager)
    ) -> EvaluationInfo:
        """End an evaluation that runs; begun again, it goes on where it was left."""
        check_tenant(caller, tenant)
        await service.cancel(await evaluations.get(tenant, name, evaluation), by=actor(caller))
        return EvaluationInfo.model_validate(await evaluations.get(tenant, name, evaluation))


def _add_reading(routes: APIRouter, services: AdminServices, guard: Permissions) -> None:
    evaluations = services.registry.evaluations

    @routes.get("/evaluations")
    async def list_evaluations(
        tenant: str,
        name: str,
        version: Annotated[int | None, Query(ge=1)] = None,
        caller: Caller = Depends(guard.manager),
    ) -> Listing[EvaluationInfo]:
        """The evaluations of an adapter, or of one of its versions, the newest first."""
        check_tenant(caller, tenant)
        await services.registry.adapters.get(tenant, name)
        return Listing(
            data=[EvaluationInfo.model_validate(e) for e in await evaluations.list(tenant, name, version)]
        )

    @routes.get("/evaluations/{evaluation}")
    async def show_evaluation(
        tenant: str, name: str, evaluation: str, caller: Caller = Depends(guard.manager)
    ) -> EvaluationInfo:
        """One evaluation, with its progress."""
        check_tenant(caller, tenant)
        return EvaluationInfo.model_validate(await evaluations.get(tenant, name, evaluation))


def _add_condition(routes: APIRouter, services: AdminServices, guard: Permissions) -> None:
    adapters = services.registry.adapters

    @routes.put("/condition")
    async def set_condition(
        tenant: str, name: str, body: ConditionBody, caller: Caller = Depends(guard.manager)
    ) -> ConditionInfo:
        """Let no version of the adapter get traffic unless its figures meet a condition; rollbacks need not."""
        check_tenant(caller, tenant)
        condition = Condition.parse(body.condition).text
        return ConditionInfo(
            condition=(await adapters.set_condition(tenant, name, condition, by=actor(caller))).condition
        )

    @routes.delete("/condition")
    async def remove_condition(
        tenant: str, name: str, caller: Caller = Depends(guard.manager)
    ) -> ConditionInfo:
        """Let every version get traffic again."""
        check_tenant(caller, tenant)
        return ConditionInfo(
            condition=(await adapters.set_condition(tenant, name, None, by=actor(caller))).condition
        )
