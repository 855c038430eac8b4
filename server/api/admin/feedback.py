"""/admin/v1/feedback: what users said; operators see all, a tenant's admin its own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from starlette.responses import JSONResponse, Response

from adapters.models import Feedback, Rating
from server.api.admin.models import FeedbackInfo, Listing
from server.api.admin.permissions import Permissions, Service, seen_tenant
from server.request.context import Caller
from server.usage.feedback import training_lines


def router(service: Service, guard: Permissions) -> APIRouter:
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
        """The newest first; format=jsonl gives the chats that were sent along, ready for `loragate train`."""
        entries = await service.registry.feedback.list(
            tenant=seen_tenant(caller, tenant),
            adapter=adapter,
            version=version,
            rating=rating,
            with_messages=shape == "jsonl",
            limit=limit,
        )
        if shape == "jsonl":
            return Response("".join(training_lines(entries)), media_type="application/jsonl")
        return JSONResponse({"data": [_row(said) for said in entries]})

    return routes


def _row(said: Feedback) -> dict[str, Any]:
    """Without the chat: that is for the trainer, not for a listing."""
    row = asdict(said)
    row["at"] = said.at.isoformat()
    row["messages"] = len(said.messages) if said.messages is not None else 0
    return row
