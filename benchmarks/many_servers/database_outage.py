"""Stops the database for a while, and reads how often it was asked for leases."""

from __future__ import annotations

import asyncio
import time

from benchmarks.harness.processes.postgres_process import PostgresProcess
from benchmarks.harness.progress import ProgressReporter
from benchmarks.many_servers.recount import Interval

#: How long a run goes on after the outage: until windows without it have passed.
AFTER_S = 85.0
_CALLS = (
    "SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions WHERE funcname = 'loragate_exchange_leases'"
)
#: PostgreSQL shows what its processes have counted after at most this time.
_COUNTED_AFTER_S = 2.0


async def stop_database(
    database: PostgresProcess, progress: ProgressReporter, at_s: float, away_s: float
) -> Interval:
    """Stop it at this moment of the monotonic clock, and let it go on; returns when."""
    await asyncio.sleep(at_s - time.monotonic())
    progress.log("stopping the database")
    database.freeze()
    stopped_s = time.monotonic()
    await asyncio.sleep(away_s)
    database.thaw()
    progress.log("the database goes on")
    return stopped_s, time.monotonic()


def lease_calls(database: PostgresProcess) -> int:
    """How often servers have asked for leases or reported; by PostgreSQL's count (`track_functions=pl`)."""
    time.sleep(_COUNTED_AFTER_S)
    return int(database.query("postgres", _CALLS)[0][0])
