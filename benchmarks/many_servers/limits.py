"""Limits that several servers share, under more load than they allow, with the database stopped in the middle.

    python -m benchmarks limits [--servers 3] [--without-engine]

Starts a PostgreSQL and three demo servers on it. Four tenants have one limit each (requests and tokens per minute,
concurrency, a token budget); their clients ask for more through all servers at once. In the middle the database is
stopped for 20 s (SIGSTOP: connections stay open and nothing answers). With `--without-engine` three processes run the
servers' admission on the same database, and the clients are inside them: this has many more calls per second, and
knows to the microsecond when a request held what. Prints a table, then one JSON object.

Figures; all are counted from what the clients got, except those that name their source:

- `tpm_overshoot_tokens`, `rpm_overshoot`: how far the fullest 60 s were above the limit.
- `concurrency_overshoot`: how far the most answers that ran at once were above it.
- `budget_overshoot_tokens`: how far all tokens of the run were above the budget.
- `limit_used_share`: the smallest of the four `*_used_share`: of the rates the mean of all 60 s before the outage
  (over whole cycles of 61 s), of the concurrency its mean, of the budget all of it. The mean of a rate is at most
  60/61, because the servers count in whole seconds.
- `lease_calls_per_request`: calls of the database for leases (by PostgreSQL's count) to all calls of clients.
- `admission_p99_ms`: the wait for a lease while the database answers (by the servers' log; most calls have none).
- `away_…`: calls that ran while the database was stopped; `away_failures` and `failures`: neither answered, nor
  refused because of a limit, nor because the registry is away.
- `ledger_difference_tokens`: tokens in the servers' usage, less those that the clients got.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx
import uvloop

from benchmarks.harness.admin_client import create_tenant
from benchmarks.harness.demo_server import OPERATOR_KEY
from benchmarks.harness.errors import InvalidOption
from benchmarks.harness.processes.postgres_process import PostgresProcess, postgres_process
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.report import Bounds, publish
from benchmarks.harness.servers import ServerProcess, scratch
from benchmarks.many_servers.admission_processes import run_admission
from benchmarks.many_servers.database_outage import AFTER_S, lease_calls, stop_database
from benchmarks.many_servers.limit_clients import LimitClients
from benchmarks.many_servers.limited_tenants import (
    LimitedTenant,
    Run,
    figures_of,
    outcomes,
    tenants_of,
)
from benchmarks.many_servers.recount import WINDOW_S
from benchmarks.many_servers.server_logs import admission_waits_s
from benchmarks.many_servers.shared_servers import shared_servers

BOUNDS: Final[Bounds] = {
    "tpm_overshoot_tokens": ("<=", 0),
    "rpm_overshoot": ("<=", 0),
    "concurrency_overshoot": ("<=", 0),
    "budget_overshoot_tokens": ("<=", 0),
    "limit_used_share": (">=", 0.95),
    "lease_calls_per_request": ("<=", 0.2),
    "admission_p99_ms": ("<=", 50),
    "away_failures": ("<=", 0),
    "failures": ("<=", 0),
}
#: With an engine, the usage must also agree.
_LEDGER: Final[Bounds] = {"ledger_difference_tokens": ("<=", 0)}
_LEDGER_AFTER_S = 3.0


def main(argv: Sequence[str]) -> int:
    """Measure; 0 if every bound holds, else 1."""
    options = _parser().parse_args(argv)
    if options.seconds < (least := 2 * WINDOW_S + options.away + AFTER_S):
        raise InvalidOption(
            f"--seconds must be at least {least:.0f}: two minutes, the outage, {AFTER_S:.0f} s more"
        )
    progress = ProgressReporter(quiet=options.quiet)
    scale = 4 if options.without_engine else 1
    tenants = tenants_of(
        options.rpm * scale, options.tpm * scale, options.concurrency, options.budget * scale
    )
    with scratch() as home, postgres_process(settings={"track_functions": "pl"}) as database:
        if options.without_engine:
            run = run_admission(options, tenants, database, progress)
            figures = figures_of(run, tenants)
        else:
            run, difference = _with_engine(options, tenants, database, home, progress)
            figures = figures_of(run, tenants) | {"ledger_difference_tokens": difference}
    figures = {name: round(value, 4) for name, value in figures.items()}
    flags = {name: getattr(options, name) for name in ("servers", "without_engine", "seconds", "clients")}
    limits = {tenant.setting: tenant.limit for tenant in tenants}
    bounds = BOUNDS if options.without_engine else {**BOUNDS, **_LEDGER}
    counted = outcomes(run.calls)
    return publish("limits", figures, bounds, options.out, flags=flags, limits=limits, outcomes=counted)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks limits", description="Limits of many servers."
    )
    add = parser.add_argument
    add("--servers", type=int, default=3, help="(default: %(default)s)")
    add(
        "--without-engine",
        action="store_true",
        help="processes that run the admission only; limits are 4 times",
    )
    add("--seconds", type=float, default=240, help="length of the load (default: %(default)s)")
    add("--away", type=float, default=20, help="seconds without the database (default: %(default)s)")
    add("--clients", type=int, default=4, help="of each tenant on each server (default: %(default)s)")
    add("--rpm", type=int, default=240, help="limit of the tenant `rates` (default: %(default)s)")
    add("--tpm", type=int, default=4000, help="limit of the tenant `tokens` (default: %(default)s)")
    add("--concurrency", type=int, default=6, help="limit of the tenant `places` (default: %(default)s)")
    add(
        "--budget",
        type=int,
        default=8000,
        help="tokens a day of the tenant `budget` (default: %(default)s)",
    )
    add("--out", type=Path, help="also write the JSON to this file")
    add("--quiet", action="store_true", help="print no progress")
    return parser


def _with_engine(
    options: argparse.Namespace,
    tenants: Sequence[LimitedTenant],
    database: PostgresProcess,
    home: Path,
    progress: ProgressReporter,
) -> tuple[Run, int]:
    """The run, and by how much the usage differs from what the clients got."""
    with shared_servers(database, home, options.servers) as servers:
        progress.log(f"{len(servers)} servers are ready")
        run = uvloop.run(_load(options, tenants, database, servers, progress))
        time.sleep(_LEDGER_AFTER_S)
        headers = {"authorization": f"Bearer {OPERATOR_KEY}"}
        usage = httpx.get(f"{servers[0].url}/admin/v1/usage", headers=headers, timeout=60).raise_for_status()
    names = {tenant.name for tenant in tenants}
    ledger = [row for row in usage.json()["data"] if row["tenant"] in names]
    used = sum(row["prompt_tokens"] + row["generated_tokens"] for row in ledger)
    got = sum(amount for call in run.calls for _, amount in call.uses)
    run.waits_s = admission_waits_s([server.log for server in servers], names, run.away)
    return run, abs(used - got)


async def _load(
    options: argparse.Namespace,
    tenants: Sequence[LimitedTenant],
    database: PostgresProcess,
    servers: Sequence[ServerProcess],
    progress: ProgressReporter,
) -> Run:
    async with httpx.AsyncClient(base_url=servers[0].url, timeout=60) as http:
        keys = {
            tenant.name: await create_tenant(
                http, OPERATOR_KEY, tenant.name, role="inference", **tenant.settings
            )
            for tenant in tenants
        }
    await asyncio.sleep(1)  # until all servers know the keys
    clients = LimitClients([server.url for server in servers], keys, options.clients)
    calls_before = lease_calls(database)
    began_s = time.monotonic()
    sending = asyncio.create_task(clients.run(tenants, began_s + options.seconds))
    away = await stop_database(
        database, progress, began_s + options.seconds - AFTER_S - options.away, options.away
    )
    await sending
    ended_s = time.monotonic()
    return Run(began_s, ended_s, away, clients.calls, lease_calls=lease_calls(database) - calls_before)
