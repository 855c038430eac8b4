"""What the scheduler counts, for metrics, the ledger and the admin API.

vLLM decodes `SchedulerStats` by its own fields, so nothing of ours can ride in it. The front end asks instead,
and an EngineCore method that we add answers between two steps.

Leans on (vLLM 0.32): vllm.v1.engine.core.EngineCore (its methods are callable as utilities) and
`AsyncMPClient.call_utility_async`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from vllm.v1.engine.core import EngineCore

from server.fairness.arbiter import Arbiter

_METHOD = "loragate_scheduler_report"


def report(arbiter: Arbiter) -> dict[str, Any]:
    """Counters and present state, as plain data.

    Returns:
        `tally`: the fields of `server.fairness.interfaces.Tally`, growing from the engine's start.
        `capacity`: `kv_blocks`, `block_size_tokens`, `max_num_seqs`.
        `adapters_running`: adapters of the running requests.
        `tenants`: name -> `running`, `waiting` (requests), `kv_blocks` (held now),
        `claimed_blocks` (held, and what prompts under way will take), `guaranteed_blocks`,
        `limit_blocks`, `service` (weighted counter), and since the start: `kv_block_seconds` (a block that
        several requests share counts once) and `adapter_kv_block_seconds` (by the adapter's engine id, 0 for
        the base model; a shared block counts for each request).
    """
    return {
        "tally": dataclasses.asdict(arbiter.tally),
        "capacity": dataclasses.asdict(arbiter.holdings.capacity),
        "adapters_running": len({lease.adapter for lease in arbiter.holdings.leases()} - {0}),
        "tenants": {tenant: _tenant_report(arbiter, tenant) for tenant in arbiter.holdings.tenants()},
    }


def _tenant_report(arbiter: Arbiter, tenant: str) -> dict[str, Any]:
    holdings = arbiter.holdings
    holding = holdings.of(tenant)
    block_seconds, adapter_block_seconds = holdings.block_seconds(tenant)
    return {
        "running": holding.slots,
        "waiting": arbiter.line.count(tenant),
        "kv_blocks": holding.blocks,
        "claimed_blocks": holding.claimed_blocks,
        "guaranteed_blocks": holdings.capacity.guaranteed_blocks(holding.share),
        "limit_blocks": holdings.capacity.limit_blocks(holding.share),
        "service": arbiter.bills.counters.of(tenant),
        "kv_block_seconds": block_seconds,
        "adapter_kv_block_seconds": adapter_block_seconds,
    }


def install() -> None:
    """Let EngineCore answer `read`; called in its process, as often as one likes."""
    setattr(EngineCore, _METHOD, lambda core: core.scheduler.report())


async def read(engine: Any) -> dict[str, Any]:
    """The report of a running `AsyncLLM` whose scheduler is `TenantScheduler`."""
    answer: dict[str, Any] = await engine.engine_core.call_utility_async(_METHOD)
    return answer
