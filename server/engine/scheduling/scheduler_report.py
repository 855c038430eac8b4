"""The scheduler's counters and state, for metrics, the usage ledger and the admin API.

vLLM decodes `SchedulerStats` by its own fields, so it cannot carry ours. The API process calls a method that we add
to EngineCore instead, and EngineCore answers between two steps.

Leans on (vLLM 0.32): vllm.v1.engine.core.EngineCore (its methods are callable as utilities) and
`AsyncMPClient.call_utility_async`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from vllm.v1.engine.core import EngineCore

from server.fairness.arbiter import Arbiter
from server.fairness.shares import is_background, tenant_of

_METHOD = "loragate_scheduler_report"


def report(arbiter: Arbiter) -> dict[str, Any]:
    """Counters and present state, as plain data.

    Returns:
        `counters`: the fields of `server.fairness.interfaces.SchedulerCounters`, since the engine's start.
        `capacity`: `kv_blocks`, `block_size_tokens`, `max_num_seqs`.
        `adapters_running`: number of adapters with running requests.
        `tenants`: name -> `running`, `waiting` (requests), `kv_blocks` (held now),
        `claimed_blocks` (held, plus what running prompts will still take), `guaranteed_blocks`,
        `limit_blocks`, `service` (weighted virtual counter), and since the start: `kv_block_seconds` (a shared
        block counts once) and `adapter_kv_block_seconds` (by the adapter's engine id, 0 for the base model; a
        shared block counts for each request). `background`: `running`, `waiting`, `kv_blocks` of the server's own
        work for the tenant, which is in the block-seconds and in nothing else of the row.
    """
    return {
        "counters": dataclasses.asdict(arbiter.counters),
        "capacity": dataclasses.asdict(arbiter.accounting.capacity),
        "adapters_running": len(
            {allocation.adapter for allocation in arbiter.accounting.allocations()} - {0}
        ),
        "tenants": _tenants(arbiter),
    }


def _tenants(arbiter: Arbiter) -> dict[str, Any]:
    """A row for each tenant, with its background requests in it."""
    names = arbiter.accounting.tenants()
    rows = {name: _tenant_report(arbiter, name) for name in names if not is_background(name)}
    for name in filter(is_background, names):
        tenant, own = tenant_of(name), _tenant_report(arbiter, name)
        row = rows.setdefault(tenant, _tenant_report(arbiter, tenant))
        row["background"] = {key: own[key] for key in ("running", "waiting", "kv_blocks")}
        row["kv_block_seconds"] += own["kv_block_seconds"]
        held = row["adapter_kv_block_seconds"]
        for adapter, block_seconds in own["adapter_kv_block_seconds"].items():
            held[adapter] = held.get(adapter, 0.0) + block_seconds
    return rows


def _tenant_report(arbiter: Arbiter, tenant: str) -> dict[str, Any]:
    accounting = arbiter.accounting
    allocated = accounting.of(tenant)
    block_seconds, adapter_block_seconds = accounting.block_seconds(tenant)
    return {
        "running": allocated.slots,
        "waiting": arbiter.queue.count(tenant),
        "kv_blocks": allocated.blocks,
        "claimed_blocks": allocated.claimed_blocks,
        "guaranteed_blocks": accounting.capacity.guaranteed_blocks(allocated.share),
        "limit_blocks": accounting.capacity.limit_blocks(allocated.share),
        "service": arbiter.charges.virtual_counters.of(tenant),
        "kv_block_seconds": block_seconds,
        "adapter_kv_block_seconds": adapter_block_seconds,
    }


def install() -> None:
    """Add the method that `read` calls to EngineCore, in its process. Idempotent."""
    setattr(EngineCore, _METHOD, lambda core: core.scheduler.report())


async def read(engine: Any) -> dict[str, Any]:
    """The report of a running `AsyncLLM` whose scheduler is `TenantScheduler`."""
    answer: dict[str, Any] = await engine.engine_core.call_utility_async(_METHOD)
    return answer
