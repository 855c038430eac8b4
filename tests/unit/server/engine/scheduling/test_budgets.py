"""The promises under load: random tenants, sizes, prefixes, adapters and aborts, checked after every step."""

from __future__ import annotations

import os
import random

import pytest

from adapters.tenant_settings import TenantSettings
from server.fairness.shares import Share
from tests.unit.server.engine.scheduling.scheduler_rig import BLOCK_SIZE, Rig

LONG = bool(os.environ.get("LORAGATE_TEST_LONG"))


def random_policies(rng: random.Random, tenants: int) -> dict[str, TenantSettings]:
    left, policies = 1.0, {}
    for i in range(tenants):
        guarantee = rng.choice([0.0, 0.0, rng.uniform(0, left)])
        left -= guarantee
        policies[f"t{i}"] = TenantSettings(
            weight=rng.choice([1, 1, 2, 4]),
            kv_guarantee=guarantee,
            kv_limit=min(1.0, max(guarantee, rng.uniform(0.1, 1.2))),
        )
    return policies


class Load:
    """Requests of random tenants that fit their limits, as admission would let them in."""

    def __init__(
        self, rig: Rig, rng: random.Random, policies: dict[str, TenantSettings], adapters: int
    ) -> None:
        self.rig, self.rng, self.policies, self.adapters = rig, rng, policies, adapters
        self.expected: dict[str, list[int]] = {}

    def add(self) -> None:
        rng = self.rng
        tenant = rng.choice(list(self.policies))
        capacity = self.rig.scheduler.arbiter.accounting.capacity
        most = capacity.limit_blocks(Share.of(self.policies[tenant])) * BLOCK_SIZE
        prompt_tokens = rng.randint(1, max(1, min(120, most - 1)))
        generate = rng.randint(1, max(1, min(80, most - prompt_tokens + 1)))
        shared_prefix = rng.random() < 0.3
        request_id = f"r{len(self.expected)}"
        self.rig.add(
            request_id,
            tenant,
            self.policies[tenant],
            prompt=[7] * prompt_tokens if shared_prefix else prompt_tokens,
            generate=generate,
            adapter=rng.randint(0, self.adapters),
        )
        self.expected[request_id] = [(prompt_tokens + i) % 7 + 1 for i in range(generate)]


def check_limits(rig: Rig) -> None:
    """Independent of the arbiter's own counters: from the cache's block tables."""
    scheduler = rig.scheduler
    blocks: dict[str, set[int]] = {}
    slots: dict[str, int] = {}
    for request in scheduler.running:
        entry = request.loragate_entry
        (ids,) = scheduler.kv_cache_manager.get_block_ids(request.request_id)
        blocks.setdefault(entry.tenant, set()).update(ids)
        slots[entry.tenant] = slots.get(entry.tenant, 0) + 1
    for request in scheduler.running:
        entry, capacity = request.loragate_entry, scheduler.arbiter.accounting.capacity
        assert len(blocks[entry.tenant]) <= capacity.limit_blocks(entry.share)
        assert slots[entry.tenant] <= capacity.limit_slots(entry.share)
    counted = {tenant: set(held.block_uses) for tenant, held in scheduler.arbiter.accounting.active()}
    assert counted == blocks


@pytest.mark.parametrize(
    "seed",
    [
        0,
        *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2)),
        *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 100)),
    ],
)
def test_random_tenants_keep_their_budgets_and_every_answer_is_whole(seed: int) -> None:
    rng = random.Random(seed)
    with_adapters = seed % 2 == 1
    rig = Rig(
        blocks=120,
        max_num_seqs=12,
        max_tokens_per_step=rng.choice([32, 64, 256]),
        depth=1 + seed // 2 % 2,
        max_loras=2 if with_adapters else None,
    )
    load = Load(rig, rng, random_policies(rng, 8), adapters=5 if with_adapters else 0)
    requests, aborted = 500 if LONG else 100, set()
    while len(load.expected) < requests or rig.scheduler.get_num_unfinished_requests():
        for _ in range(rng.choice([0, 0, 1, 3, 20]) if len(load.expected) < requests else 0):
            load.add()
        if load.expected and rng.random() < 0.05:
            request_id = rng.choice(list(load.expected))
            if request_id not in rig.finished:
                rig.abort(request_id)
                aborted.add(request_id)
        rig.step()
        rig.check_accounting()
        check_limits(rig)
        assert len(rig.steps) < 20_000
    assert {r: rig.tokens[r] for r in load.expected if r not in aborted} == {
        r: tokens for r, tokens in load.expected.items() if r not in aborted
    }
    counters = rig.scheduler.arbiter.counters
    assert (counters.limit_violations, counters.starved_steps) == (0, 0)


def test_a_guaranteed_tenant_starts_within_a_step_however_busy_the_others_are() -> None:
    rng = random.Random(1)
    rig = Rig(blocks=120, max_num_seqs=8, max_tokens_per_step=64)
    quiet = TenantSettings(kv_guarantee=0.3)
    for i in range(300):
        rig.add(f"n{i}", f"noisy{i % 3}", prompt=rng.randint(10, 100), generate=rng.randint(10, 80))
    waits = []
    for i in range(40):
        for _ in range(rng.randint(3, 15)):
            rig.step()
        rig.add(f"q{i}", "quiet", quiet, prompt=20, generate=5)
        arrived = rig.now_s
        while f"q{i}" not in rig.started_s:
            rig.step()
        waits.append(round((rig.started_s[f"q{i}"] - arrived) / rig.step_s))
        while f"q{i}" not in rig.finished:
            rig.step()
    assert max(waits) == 1, waits


def test_tenants_without_a_guarantee_all_get_on_beside_one_with() -> None:
    rig = Rig(blocks=120, max_num_seqs=6, max_tokens_per_step=64)
    for i in range(60):
        rig.add(f"g{i}", "guaranteed", TenantSettings(kv_guarantee=0.5), prompt=30, generate=30)
        rig.add(f"a{i}", "acme", prompt=30, generate=30)
        rig.add(f"b{i}", "beta", prompt=30, generate=30)
    while len(rig.finished) < 90:
        rig.step()
    shares = {name: sum(f.startswith(name) for f in rig.finished) for name in "gab"}
    assert shares["g"] >= 40, "half of the slots at least"
    assert abs(shares["a"] - shares["b"]) <= 3
    assert shares["a"] >= 15


@pytest.mark.parametrize(
    ("adapters", "slots", "wait_s"), [(3, 2, 2.0), (8, 2, 2.0), (8, 1, 2.0), (8, 2, 0.5)]
)
def test_every_adapter_is_served_within_the_bound_though_there_are_fewer_slots(
    adapters: int, slots: int, wait_s: float
) -> None:
    rig = Rig(
        blocks=4000, max_num_seqs=64, max_tokens_per_step=1024, max_loras=slots, lora_slot_wait_s=wait_s
    )
    for adapter in range(1, adapters + 1):
        for i in range(2):
            rig.add(f"{adapter}-{i}", f"t{adapter % 3}", prompt=20, generate=600, adapter=adapter)
    last_served_s = dict.fromkeys(range(1, adapters + 1), 0.0)
    longest_s = 0.0
    while rig.now_s < 6 * wait_s:
        for request_id in rig.step().num_scheduled_tokens:
            adapter = int(request_id.split("-")[0])
            longest_s = max(longest_s, rig.now_s - last_served_s[adapter])
            last_served_s[adapter] = rig.now_s
    longest_s = max(longest_s, *(rig.now_s - at for at in last_served_s.values()))
    assert longest_s <= wait_s
    assert all(tokens == [(20 + i) % 7 + 1 for i in range(len(tokens))] for tokens in rig.tokens.values())


def test_adapters_that_fit_into_the_slots_are_never_preempted_for_a_turn() -> None:
    rig = Rig(blocks=1000, max_num_seqs=8, max_loras=2, lora_slot_wait_s=0.1)
    for i in range(20):
        rig.add(f"r{i}", prompt=20, generate=50, adapter=i % 3)  # 0 is the base model
    rig.run()
    assert rig.scheduler.arbiter.counters.preempted_for_adapter == 0


def test_nobody_waits_behind_a_request_whose_adapter_has_no_slot() -> None:
    rig = Rig(blocks=1000, max_num_seqs=8, max_loras=1)
    rig.add("hot", prompt=20, generate=50, adapter=1)
    rig.add("cold", prompt=20, generate=5, adapter=2)
    rig.add("base", prompt=20, generate=5)
    rig.add("hot too", prompt=20, generate=5, adapter=1)
    assert set(rig.step().num_scheduled_tokens) == {"hot", "base", "hot too"}
    rig.run()
    assert len(rig.tokens["cold"]) == 5
