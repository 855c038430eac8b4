"""Throughput over the number of clients or of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.harness.compare import Contender, Plan, compete
from benchmarks.harness.progress import Bars
from benchmarks.harness.workload import Arrivals, Workload

#: Server → (how many, output tokens per second), in the order that was asked for.
Points = dict[str, list[tuple[int, float]]]


async def sweep(
    contenders: Sequence[Contender], plan: Plan, over: str, values: Sequence[int], bars: Bars
) -> Points:
    """One round for each value of `over`, "clients" or "adapters"."""
    points: Points = {contender.name: [] for contender in contenders}
    for value in values:
        seed = plan.workload.seed + 1 + value  # prompts of their own
        step = replace(plan, rounds=1, warm_up_s=0.0, workload=replace(plan.workload, seed=seed))
        if over == "clients":
            step = replace(step, arrivals=Arrivals("clients", value))
        else:
            step = replace(step, workload=first_adapters(step.workload, value))
        for name, runs in (await compete(contenders, step, bars)).items():
            points[name].append((value, round(runs[0].tokens_per_s, 3)))
    return points


def first_adapters(workload: Workload, number: int) -> Workload:
    """The workload with only so many adapters: the tenants' most popular first, in turns."""
    deepest = max(len(models) for models in workload.models.values())
    order = [
        (tenant, models[place])
        for place in range(deepest)
        for tenant, models in workload.models.items()
        if place < len(models)
    ][:number]
    models = {tenant: [name for owner, name in order if owner == tenant] for tenant in workload.models}
    return replace(
        workload,
        models={tenant: names for tenant, names in models.items() if names},
        tenants={tenant: share for tenant, share in workload.tenants.items() if models[tenant]},
    )
