"""GET /internal/replica: what a server tells the fronts that know its token."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from server.api.replica import router
from server.cluster.replica_views import PATH, ReplicaReport


class Reporter:
    async def report(self) -> ReplicaReport:
        return ReplicaReport(in_flight=3, held=frozenset({"acme-support"}), slots=8, base="loragate-demo")


@pytest.mark.parametrize(
    ("token", "sent", "status"),
    [("t", "Bearer t", 200), ("t", "Bearer x", 404), ("t", "t", 404), ("t", "", 404), ("", "Bearer ", 404)],
)
async def test_only_who_knows_the_token_is_told(token: str, sent: str, status: int) -> None:
    app = FastAPI()
    app.include_router(router(Reporter(), token))  # type: ignore[arg-type]  # only `report` is called
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        answer = await client.get(PATH, headers={"authorization": sent})
    assert answer.status_code == status
    if status == 200:
        told = answer.json()
        assert (told["in_flight"], told["held"], told["slots"], told["base"]) == (
            3, ["acme-support"], 8, "loragate-demo",
        )  # fmt: skip
