"""An occupied event loop is seen."""

from __future__ import annotations

import asyncio
import time

from server.observability.loop_lag import watch


async def test_what_occupies_the_loop_is_observed() -> None:
    seen: list[float] = []
    watching = asyncio.create_task(watch(seen.append, interval_s=0.01))
    await asyncio.sleep(0.05)
    time.sleep(0.3)
    await asyncio.sleep(0.05)
    watching.cancel()
    assert max(seen) >= 0.25 and min(seen) >= 0
