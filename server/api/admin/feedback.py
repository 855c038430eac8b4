"""/admin/v1/feedback: users' ratings; operators see all, a tenant's admin its own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from starlette.responses import JSONResponse, Response

from adapters.models import Rating
from server.api.admin.models import FeedbackInfo, Listing
from server.api.admin.permissions import AdminServices, Permissions, seen_tenant
from server.request.context import Caller
from server.usage.feedback import training_lines


def router(services: AdminServices, guard: Permissions) -> APIRouter:
    """The route."""
    routes = APIRouter()

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
            return Response("".join(training_lines(entries)), media_type="application/jsonl")
        # Of a chat only its length; the chat itself is exported only as JSONL.
        rows = [
            asdict(entry) | {"at": entry.at.isoformat(), "messages": len(entry.messages or ())}
            for entry in entries
        ]
        return JSONResponse({"data": rows})

    return routes
