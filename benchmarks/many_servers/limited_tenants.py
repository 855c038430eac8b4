"""The tenants of the benchmark of limits, one for each limit, what their calls came to, and the figures of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness.report import percentile
from benchmarks.many_servers.recount import (
    WINDOW_S,
    Interval,
    Use,
    mean_at_once,
    mean_of_windows,
    most_at_once,
    most_in_a_window,
)

#: What calls came to: answered, or the code of the error that refused them.
ANSWERED, UNAVAILABLE = "answered", "registry_unavailable"
#: What was used can be used again after so long: the servers count in whole seconds.
CYCLE_S = 61.0
#: Codes of refusals because of a limit.
REFUSALS = ("rate_limit_exceeded", "concurrency_limit_exceeded", "insufficient_quota")


@dataclass(frozen=True, slots=True)
class LimitedTenant:
    """A tenant with one limit, and what its clients ask for."""

    name: str
    setting: str
    """Which limit: rpm, tpm, max_concurrency or token_budget."""
    limit: int
    output_tokens: tuple[int, int]
    """The fewest and the most tokens of an answer."""
    streams: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """The tenant's settings."""
        return {self.setting: self.limit}


@dataclass(frozen=True, slots=True)
class Call:
    """What one call came to; moments are monotonic seconds of this machine.

    `entered_s` counts for `rpm`, `uses` for `tpm`. `ran` is the part of the time in which it surely held its place of
    `max_concurrency`: a client knows of the first token and of the last but one.
    """

    tenant: str
    sent_s: float
    ended_s: float
    outcome: str
    entered_s: float = 0.0
    uses: tuple[Use, ...] = ()
    ran: Interval | None = None


@dataclass(slots=True)
class Run:
    """One run: all calls, and what was done when."""

    began_s: float
    ended_s: float
    away: Interval
    """When the database was stopped, and when it went on."""
    calls: list[Call] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    """How long each call waited for its admission while the database answered, refused calls included."""
    lease_calls: int = 0
    """Calls of the database for leases, counted by the database."""


def tenants_of(rpm: int, tpm: int, concurrency: int, budget: int) -> tuple[LimitedTenant, ...]:
    """One tenant for each limit."""
    return (
        LimitedTenant("rates", "rpm", rpm, (1, 8)),
        LimitedTenant("tokens", "tpm", tpm, (4, 32)),
        LimitedTenant("places", "max_concurrency", concurrency, (150, 250), streams=True),
        LimitedTenant("budget", "token_budget", budget, (4, 32)),
    )


def figures_of(run: Run, tenants: Sequence[LimitedTenant]) -> dict[str, float]:
    """All figures of a run, except those that need the server's usage."""
    figures = _of_limits(run, tenants)
    shares = [value for name, value in figures.items() if name.endswith("_used_share")]
    figures["limit_used_share"] = min(shares)
    figures |= _after(run, tenants)
    answered = sum(call.outcome == ANSWERED for call in run.calls)
    figures["calls"], figures["answered"] = len(run.calls), answered
    figures["lease_calls"] = run.lease_calls
    figures["lease_calls_per_request"] = run.lease_calls / len(run.calls)
    figures["lease_calls_per_answer"] = run.lease_calls / max(1, answered)
    figures["lease_calls_per_s"] = run.lease_calls / (run.ended_s - run.began_s)
    figures["admission_p50_ms"] = 1000 * (percentile(run.waits_s, 50) or 0.0)
    figures["admission_p99_ms"] = 1000 * (percentile(run.waits_s, 99) or 0.0)
    return figures | _while_away(run)


def outcomes(calls: Iterable[Call]) -> dict[str, dict[str, int]]:
    """Tenant → outcome → number of calls."""
    found: dict[str, Counter[str]] = {}
    for call in calls:
        found.setdefault(call.tenant, Counter())[call.outcome] += 1
    return {tenant: dict(sorted(counts.items())) for tenant, counts in sorted(found.items())}


def _of_limits(run: Run, tenants: Sequence[LimitedTenant]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for tenant in tenants:
        entered, used, ran = _records(run, tenant.name)
        total = sum(amount for _, amount in used)
        if tenant.setting == "token_budget":
            figures["budget_overshoot_tokens"] = max(0, total - tenant.limit)
            figures["budget_used_share"] = min(total, tenant.limit) / tenant.limit
        elif tenant.setting == "max_concurrency":
            figures["concurrency_overshoot"] = max(0, most_at_once(ran) - tenant.limit)
            mean = mean_at_once(ran, run.began_s + 5.0, run.away[0])
            figures["concurrency_used_share"] = mean / tenant.limit
        else:
            uses, unit = (entered, "") if tenant.setting == "rpm" else (used, "_tokens")
            figures[f"{tenant.setting}_overshoot{unit}"] = max(0, most_in_a_window(uses) - tenant.limit)
            mean = mean_of_windows(uses, run.began_s, _whole_cycles_end_s(run))
            figures[f"{tenant.setting}_used_share"] = mean / tenant.limit
    return figures


def _whole_cycles_end_s(run: Run) -> float:
    """When the last whole cycle before the outage ended: clients that wait for a full minute to pass use a limit in
    bursts, and a part of a cycle would have one burst too many or too few."""
    cycles = max(1, int((run.away[0] - run.began_s - WINDOW_S) // CYCLE_S))
    return run.began_s + WINDOW_S + CYCLE_S * cycles


def _after(run: Run, tenants: Sequence[LimitedTenant]) -> dict[str, float]:
    """How much of the rates was used in the windows that began after the database went on."""
    figures: dict[str, float] = {}
    for tenant in tenants:
        entered, used, _ = _records(run, tenant.name)
        if tenant.setting in ("rpm", "tpm"):
            uses = entered if tenant.setting == "rpm" else used
            mean = mean_of_windows(uses, run.away[1], run.ended_s)
            figures[f"{tenant.setting}_used_after_outage"] = mean / tenant.limit
    return figures


def _while_away(run: Run) -> dict[str, float]:
    """What callers saw while the database was stopped, and of failures at other times."""
    away = [call for call in run.calls if _overlaps(call, run.away)]
    other = [call for call in run.calls if not _overlaps(call, run.away)]
    unavailable = [call for call in run.calls if call.outcome == UNAVAILABLE]
    late = [call.ended_s - run.away[1] for call in unavailable if call.ended_s > run.away[1]]
    return {
        "away_s": run.away[1] - run.away[0],
        "away_answered": sum(call.outcome == ANSWERED for call in away),
        "away_refused": sum(call.outcome in REFUSALS for call in away),
        "away_unavailable": len(unavailable),
        "away_unavailable_p99_s": percentile([c.ended_s - c.sent_s for c in unavailable], 99) or 0.0,
        "away_unavailable_slowest_s": max((c.ended_s - c.sent_s for c in unavailable), default=0.0),
        "away_failures": sum(call.outcome not in (ANSWERED, UNAVAILABLE, *REFUSALS) for call in away),
        "unavailable_after_s": max(late, default=0.0),
        "failures": sum(call.outcome not in (ANSWERED, UNAVAILABLE, *REFUSALS) for call in other),
    }


def _overlaps(call: Call, away: Interval) -> bool:
    return call.ended_s >= away[0] and call.sent_s <= away[1]


def _records(run: Run, tenant: str) -> tuple[list[Use], list[Use], list[Interval]]:
    """Of one tenant's answered calls: requests, tokens, and when they ran."""
    answered: list[Any] = [c for c in run.calls if c.tenant == tenant and c.outcome == ANSWERED]
    entered = [(call.entered_s, 1) for call in answered]
    return (
        entered,
        [use for call in answered for use in call.uses],
        [call.ran for call in answered if call.ran],
    )
