"""Runs several processes of `benchmarks.many_servers.admission_process` on one database."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from adapters.registry import migrate
from benchmarks.harness.errors import BenchmarkFailed
from benchmarks.harness.processes.postgres_process import PostgresProcess
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.servers import scratch
from benchmarks.many_servers.database_outage import AFTER_S, lease_calls, stop_database
from benchmarks.many_servers.limited_tenants import Call, LimitedTenant, Run

#: Until all have ended after their time.
_END_S = 60.0
_ENDED = "A process of the admission ended with an error; see above."


def run_admission(
    options: argparse.Namespace,
    tenants: Sequence[LimitedTenant],
    database: PostgresProcess,
    progress: ProgressReporter,
) -> Run:
    """One run, as `options` of `python -m benchmarks limits` say."""
    asyncio.run(migrate(database.url))
    progress.log(f"{options.servers} processes run the admission")
    command = [sys.executable, "-m", "benchmarks.many_servers.admission_process"]
    command += ["--tenants", json.dumps([asdict(tenant) for tenant in tenants])]
    command += ["--database-url", database.url, "--clients", str(options.clients)]
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        files = [folder / f"{number}.jsonl" for number in range(options.servers)]
        processes = [_start([*command, "--seed", file.stem], file, stack) for file in files]
        while not all(file.read_text(encoding="utf-8") for file in files):
            if any(process.poll() is not None for process in processes):
                raise BenchmarkFailed(_ENDED)
            time.sleep(0.05)
        began_s = time.monotonic()
        ends_s = began_s + options.seconds
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{ends_s}\n".encode())
            process.stdin.flush()
        away = asyncio.run(stop_database(database, progress, ends_s - AFTER_S - options.away, options.away))
        if any(process.wait(ends_s + _END_S - time.monotonic()) for process in processes):
            raise BenchmarkFailed(_ENDED)
        run = Run(began_s, time.monotonic(), away, lease_calls=lease_calls(database))
        for file in files:
            _read_calls(file, run)
    return run


def _start(command: list[str], output: Path, stack: ExitStack) -> subprocess.Popen[bytes]:
    with output.open("wb") as written:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=written)  # noqa: S603
    stack.callback(process.kill)
    return process


def _read_calls(file: Path, run: Run) -> None:
    for line in file.read_text(encoding="utf-8").splitlines()[1:]:
        record = json.loads(line)
        call = Call(**record["call"])
        run.calls.append(call)
        if call.ended_s < run.away[0] or call.sent_s > run.away[1]:
            run.waits_s.append(record["wait_s"])
