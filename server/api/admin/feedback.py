"""/admin/v1/feedback: users' ratings; operators see all, a tenant's admin its own."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from adapters.models import Feedback, Rating
from server.api.admin.models import FeedbackInfo, Listing
from server.api.admin.permissions import AdminServices, Permissions, admin_router, seen_tenant
from server.api.admin.sliced_listing import json_listing, text
from server.request.context import Caller
from server.usage.feedback import training_lines


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The route /admin/v1/feedback, which lists feedback."""
    routes = admin_router()

    @routes.get(
        "/feedback",
        response_model=Listing[FeedbackInfo],
        responses={200: {"content": {"application/jsonl": {}}}},
    )
    async def list_feedback(
        tenant: str | None = None,
        adapter: str | None = None,
        version: int | None = None,
        rating: Rating | None = None,
        limit: Annotated[int, Query(ge=1, le=100_000)] = 100,
        shape: Annotated[Literal["json", "jsonl"], Query(alias="format")] = "json",
        caller: Caller = Depends(guard.manager),
    ) -> Response:
        """Ratings, the newest first; format=jsonl returns the stored chats, ready for `loragate train`."""
        entries = await services.registry.feedback.list(
            tenant=seen_tenant(caller, tenant),
            adapter=adapter,
            version=version,
            rating=rating,
            with_messages=shape == "jsonl",
            limit=limit,
        )
        if shape == "jsonl":
            return text(training_lines(entries), "".join, "application/jsonl", size=4)
        return json_listing(map(_row, entries))

    return routes


def _row(entry: Feedback) -> dict[str, Any]:
    """Of a chat only its length; the chat itself is exported only as JSONL."""
    row = {field.name: getattr(entry, field.name) for field in fields(entry)}
    return row | {"at": entry.at.isoformat(), "messages": len(entry.messages or ())}
