"""Measures how long the event loop was occupied: a timer that fires late was held up by something.

Whatever one request occupies at a time is bounded (docs/security.md); this shows an operator whether it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NoReturn

#: Seconds between two measurements. An occupation of twice this time is always seen, as at least half of it.
INTERVAL_S = 0.02


async def watch(observe: Callable[[float], None], interval_s: float = INTERVAL_S) -> NoReturn:
    """Observe the lateness of a timer, in seconds, again and again; costs a thousandth of a core."""
    while True:
        due_at = time.monotonic() + interval_s
        await asyncio.sleep(interval_s)
        observe(max(0.0, time.monotonic() - due_at))
