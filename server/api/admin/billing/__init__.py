"""/admin/v1: usage, prices, budgets and webhooks."""

from __future__ import annotations

from starlette.routing import BaseRoute

from server.api.admin.billing.budgets import router as budget_routes
from server.api.admin.billing.prices import router as price_routes
from server.api.admin.billing.usage import router as usage_routes
from server.api.admin.billing.webhooks import router as webhook_routes
from server.api.admin.permissions import AdminServices, Permissions


def routes(services: AdminServices, guard: Permissions) -> list[BaseRoute]:
    """The routes."""
    makers = (usage_routes, price_routes, webhook_routes, budget_routes)
    return [route for make in makers for route in make(services, guard).routes]
