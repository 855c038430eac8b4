"""What the servers' access logs say of the waits for leases."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path

from benchmarks.many_servers.recount import Interval


def admission_waits_s(logs: Iterable[Path], tenants: Collection[str], away: Interval) -> list[float]:
    """How long each request of these tenants waited for a lease, except those that ran in an interval.

    Args:
        logs: the servers' logs.
        tenants: whose requests.
        away: monotonic seconds of this machine.
    """
    offset_s = time.time() - time.monotonic()
    waits = []
    for log in logs:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if '"event": "request"' not in line or not line.startswith("{"):
                continue
            record = json.loads(line)
            ended_s = datetime.fromisoformat(record["ts"]).timestamp() - offset_s
            began_s = ended_s - record.get("total_ms", 0.0) / 1000
            if record.get("tenant") in tenants and not (ended_s >= away[0] and began_s <= away[1]):
                waits.append(record.get("lease_ms", 0.0) / 1000)
    return waits
