"""Throughput over the number of clients or of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.harness.client import TenantClients
from benchmarks.harness.compare import ComparisonConfig, compare
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.workload import Arrivals, Workload

#: Server → (number of clients or adapters, output tokens per second), in the order of the option.
SweepPoints = dict[str, list[tuple[int, float]]]


async def sweep(
    servers: dict[str, TenantClients],
    config: ComparisonConfig,
    parameter: str,
    values: Sequence[int],
    progress: ProgressReporter,
) -> SweepPoints:
    """Run one round for each value of `parameter`, "clients" or "adapters"."""
    points: SweepPoints = {name: [] for name in servers}
    for value in values:
        seed = config.workload.seed + 1 + value  # other prompts than the other values have
        step = replace(config, rounds=1, warm_up_s=0.0, workload=replace(config.workload, seed=seed))
        if parameter == "clients":
            step = replace(step, arrivals=Arrivals("clients", value))
        else:
            step = replace(step, workload=first_adapters(step.workload, value))
        for name, runs in (await compare(servers, step, progress)).items():
            points[name].append((value, round(runs[0].tokens_per_s, 3)))
    return points


def first_adapters(workload: Workload, number: int) -> Workload:
    """The workload with `number` adapters only: each tenant's most popular ones, the tenants in turn."""
    most = max(len(models) for models in workload.models.values())
    order = [
        (tenant, models[place])
        for place in range(most)
        for tenant, models in workload.models.items()
        if place < len(models)
    ][:number]
    models = {tenant: [name for owner, name in order if owner == tenant] for tenant in workload.models}
    return replace(
        workload,
        models={tenant: names for tenant, names in models.items() if names},
        tenants={tenant: share for tenant, share in workload.tenants.items() if models[tenant]},
    )
