"""The benchmark of limits: its figures, of runs whose figures are known, and its admission on a real database."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from postgres_process import postgres_process

from adapters.registry import Registry, connect, migrate
from benchmarks.harness.errors import InvalidOption
from benchmarks.harness.report import exit_code
from benchmarks.many_servers import limits
from benchmarks.many_servers.admission_process import AdmissionProcess
from benchmarks.many_servers.limited_tenants import ANSWERED, Call, Run, figures_of, outcomes, tenants_of
from benchmarks.many_servers.server_logs import admission_waits_s

TENANTS = tenants_of(rpm=2, tpm=100, concurrency=1, budget=50)
AWAY = (130.0, 150.0)


def answered(tenant: str, at_s: float, tokens: int = 1, ran_s: float = 0.0) -> Call:
    ran = (at_s, at_s + ran_s) if ran_s else None
    return Call(tenant, at_s, at_s, ANSWERED, at_s, ((at_s, tokens),), ran)


def full() -> list[Call]:
    """What keeps every limit, and uses all of it."""
    rates = [answered("rates", at_s + offset) for at_s in (0.0, 60.0, 120.0, 180.0) for offset in (0.0, 1.0)]
    tokens = [answered("tokens", at_s, 100) for at_s in (0.0, 60.0, 120.0, 180.0)]
    places = [answered("places", at_s, 10, 10.0) for at_s in range(0, 230, 10)]
    return [*rates, *tokens, *places, answered("budget", 3.0, 50)]


def run(*more: Call) -> Run:
    return Run(0.0, 240.0, AWAY, [*full(), *more], [0.0] * 99 + [0.02], lease_calls=5)


def test_who_keeps_the_limits_and_uses_them_is_within_all_bounds() -> None:
    figures = figures_of(run(), TENANTS)
    overshoots = [value for name, value in figures.items() if "overshoot" in name]
    assert overshoots == [0, 0, 0, 0] and figures["limit_used_share"] == pytest.approx(1.0)
    assert figures["lease_calls_per_request"] == pytest.approx(5 / len(full()))
    assert figures["admission_p50_ms"] == 0.0 and 0 < figures["admission_p99_ms"] <= 20
    assert exit_code(figures, limits.BOUNDS) == 0


@pytest.mark.parametrize(
    ("call", "figure"),
    [
        (answered("rates", 59.0), "rpm_overshoot"),
        (answered("tokens", 59.0), "tpm_overshoot_tokens"),
        (answered("places", 55.0, 1, 1.0), "concurrency_overshoot"),
        (answered("budget", 9.0, 1), "budget_overshoot_tokens"),
    ],
)
def test_one_more_than_a_limit_allows_is_found(call: Call, figure: str) -> None:
    figures = figures_of(run(call), TENANTS)
    assert [name for name, value in figures.items() if "overshoot" in name and value] == [figure]
    assert figures[figure] == 1 and exit_code(figures, limits.BOUNDS) == 1


def test_what_is_refused_uses_nothing_and_what_fails_is_a_failure() -> None:
    refused = Call("rates", 20.0, 20.0, "rate_limit_exceeded", 20.0, ((20.0, 9),))
    away = Call("rates", 139.0, 141.0, "registry_unavailable")
    late = Call("rates", 149.0, 151.0, "registry_unavailable")
    broken = Call("rates", 140.0, 140.0, "ReadError")
    cut = Call("places", 20.0, 21.0, "cut off")
    figures = figures_of(run(refused, away, late, broken, cut), TENANTS)
    assert (figures["rpm_overshoot"], figures["failures"], figures["away_failures"]) == (0, 1, 1)
    assert (figures["away_unavailable"], figures["away_unavailable_slowest_s"]) == (2, 2.0)
    assert figures["unavailable_after_s"] == 1.0
    assert outcomes([refused, away, cut]) == {
        "places": {"cut off": 1},
        "rates": {"rate_limit_exceeded": 1, "registry_unavailable": 1},
    }


def test_a_load_that_is_too_short_has_no_windows() -> None:
    with pytest.raises(InvalidOption, match="must be at least 225"):
        limits.main(["--seconds", "200"])


def test_the_waits_are_those_of_the_servers_logs(tmp_path: Path) -> None:
    def line(tenant: str, at_s: float, lease_ms: float | None) -> str:
        stamp = datetime.fromtimestamp(time.time() - time.monotonic() + at_s, UTC).isoformat()
        record = {"ts": stamp, "event": "request", "tenant": tenant, "total_ms": 1000.0}
        return json.dumps(record | ({"lease_ms": lease_ms} if lease_ms else {}))

    now = time.monotonic()
    lines = [line("rates", now, 40.0), line("rates", now, None), line("acme", now, 7.0), "no JSON", "{}"]
    lines.append(line("rates", now + 10.5, 9000.0))  # began while the database was away
    log = tmp_path / "log"
    log.write_text("\n".join(lines))
    assert admission_waits_s([log], {"rates"}, (now + 5, now + 10)) == [0.04, 0.0]


@pytest.mark.slow
async def test_admission_without_an_engine_keeps_limits_on_a_real_database() -> None:
    tenants = tenants_of(rpm=60, tpm=2000, concurrency=3, budget=400)
    calls: list[Call] = []
    waits_s: list[float] = []

    def write(call: Call, wait_s: float) -> None:
        calls.append(call)
        waits_s.append(wait_s)

    with postgres_process() as database:
        await migrate(database.url)
        engines = [connect(database.url) for _ in range(2)]
        processes = [AdmissionProcess(Registry(engine), write) for engine in engines]
        began_s = time.monotonic()
        runs = [one.run(tenants, 2, began_s + 1.5, seed) for seed, one in enumerate(processes)]
        await asyncio.gather(*runs)
        for engine in engines:
            await engine.dispose()
    made = Run(began_s - 70, time.monotonic(), (began_s - 1, began_s - 1), calls, waits_s)
    figures = figures_of(made, tenants)
    assert {call.tenant for call in calls if call.outcome == ANSWERED} == {t.name for t in tenants}
    assert [value for name, value in figures.items() if "overshoot" in name] == [0, 0, 0, 0]
    assert figures["failures"] == figures["away_failures"] == 0 and figures["budget_used_share"] > 0.5
