"""/admin/v1/budgets: operators see all, a tenant's admin its own and those of its keys."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from adapters.billing.money import picos_text
from adapters.registry.database import utc_now
from server.api.admin.models import Listing
from server.api.admin.permissions import AdminServices, Permissions, admin_router, seen_tenant
from server.request.context import Caller
from server.usage.budgets import BudgetState, budget_states


class BudgetInfo(BaseModel):
    """One budget of a tenant, or of one of its keys, in its present period; amounts are tokens, or money."""

    tenant: str
    key: str
    """The id of the key, of a rotated one the first; empty for the tenant's own budget."""
    budget: Literal["token_budget", "money_budget"]
    period: str
    begins: datetime
    ends: datetime
    allowed: str
    used: str
    percent: int
    currency: str | None
    """Null for tokens."""


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The route /admin/v1/budgets."""
    routes = admin_router()

    @routes.get("/budgets")
    async def budgets(
        tenant: str | None = None, caller: Caller = Depends(guard.manager)
    ) -> Listing[BudgetInfo]:
        """How much of each budget is used; requests that are running are counted as far as they are."""
        states = await budget_states(services.registry, utc_now(), seen_tenant(caller, tenant))
        return Listing(data=[budget_info(state, services.settings.currency) for state in states])

    return routes


def budget_info(state: BudgetState, currency: str) -> BudgetInfo:
    """A budget as the API shows it."""
    is_money = state.budget == "money_budget"
    shown = picos_text if is_money else str
    return BudgetInfo(
        tenant=state.tenant,
        key=state.key,
        budget="money_budget" if is_money else "token_budget",
        period=state.period.value,
        begins=state.begins,
        ends=state.ends,
        allowed=shown(state.allowed),
        used=shown(state.used),
        percent=state.percent,
        currency=currency if is_money else None,
    )
