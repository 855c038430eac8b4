"""A restart does not forgive a client that tries keys, and never delays a right one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from server.auth.throttle import FREE_ATTEMPTS
from tests.unit.server.app.composed import OPERATOR_KEY, Composed, compose


async def answered_in(composed: Composed, key: str) -> tuple[int, float]:
    """The status of a request from one address, and its seconds."""
    transport = httpx.ASGITransport(composed.app, client=("192.0.2.1", 1))
    began = time.monotonic()
    async with httpx.AsyncClient(transport=transport, base_url="http://loragate") as client:
        answer = await client.get("/admin/v1/tenants", headers={"authorization": f"Bearer {key}"})
    return answer.status_code, time.monotonic() - began


@pytest.mark.slow  # waits for answers that are slowed down
async def test_a_restart_forgives_nothing(tmp_path: Path) -> None:
    async with compose(tmp_path) as composed:
        trying = [asyncio.create_task(answered_in(composed, "wrong")) for _ in range(FREE_ATTEMPTS + 5)]
        async with asyncio.timeout(10):
            while not await composed.server.registry.wrong_keys.recent(1):
                await asyncio.sleep(0.1)
        for task in trying:
            task.cancel()
    async with compose(tmp_path) as composed:
        status, right_s = await answered_in(composed, OPERATOR_KEY)
        assert status == 200
        status, wrong_s = await answered_in(composed, "wrong")
        assert status == 401 and wrong_s > max(0.5, right_s)
