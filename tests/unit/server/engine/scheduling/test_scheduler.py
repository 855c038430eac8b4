from __future__ import annotations

import pytest
from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from adapters.tenant_settings import TenantSettings
from tests.unit.server.engine.scheduling.scheduler_rig import BLOCK_SIZE, Rig


def expected(prompt_tokens: int, generate: int) -> list[int]:
    """What the rig's model answers: a function of positions only."""
    return [(prompt_tokens + i) % 7 + 1 for i in range(generate)]


def test_alone_a_tenant_is_scheduled_exactly_as_by_vllm() -> None:
    def steps(cls: type[AsyncScheduler]) -> list[dict[str, int]]:
        rig = Rig(blocks=60, scheduler_cls=cls)
        for i in range(30):
            rig.add(f"r{i}", prompt=5 + 3 * i, generate=10 + i % 7)
        rig.run()
        return [step.num_scheduled_tokens for step in rig.steps]

    from server.engine.scheduling.scheduler import TenantScheduler

    assert steps(TenantScheduler) == steps(AsyncScheduler)


def test_requests_without_a_stamp_are_the_operators() -> None:
    rig = Rig()
    rig.add("r", tenant=None)
    rig.run()
    assert rig.report("")["service"] == 8 + 2 * 8


def test_a_stamp_that_cannot_be_read_does_not_end_the_engine() -> None:
    rig = Rig()
    request = rig.add("before")
    for i, stamp in enumerate(["x", {"tenant": "acme"}, {"tenant": "acme", "policy": {"weight": -1}}]):
        request.sampling_params.extra_args["loragate"] = stamp
        again = type(request)(
            request_id=f"r{i}",
            prompt_token_ids=[1, 2, 3],
            sampling_params=request.sampling_params,
            pooling_params=None,
            block_hasher=rig.hasher,
        )
        rig.requests[f"r{i}"], rig.tokens[f"r{i}"] = again, []
        rig.scheduler.add_request(again)
    rig.run()
    assert len(rig.finished) == 4


def test_service_is_one_per_prompt_token_computed_and_two_per_token_generated() -> None:
    rig = Rig()
    prompt = list(range(10, 30))
    rig.add("first", prompt=prompt, generate=5)
    rig.run()
    assert rig.report("acme")["service"] == 20 + 2 * 5
    rig.add("cached", prompt=prompt, generate=5)  # four of the five blocks are still in the prefix cache
    rig.run()
    assert rig.report("acme")["service"] == (20 + 10) + (4 + 10)


def test_service_is_not_charged_twice_for_what_a_preemption_recomputes() -> None:
    rig = Rig(blocks=12, max_num_seqs=4)
    for i in range(4):
        rig.add(f"r{i}", prompt=8, generate=20)
    rig.run()
    assert sum(request.num_preemptions for request in rig.requests.values()) > 0
    assert rig.report("acme")["service"] == 4 * (8 + 2 * 20)
    assert all(tokens == expected(8, 20) for tokens in rig.tokens.values())


def test_slots_go_to_the_least_served_tenant() -> None:
    rig = Rig(max_num_seqs=4)
    for i in range(40):
        rig.add(f"a{i}", "acme", generate=4)
    rig.step()
    for i in range(40):
        rig.add(f"g{i}", "globex", generate=4)
    while len(rig.finished) < 44:
        rig.step()
    finished = rig.finished[4:]  # acme's first four were there before globex came
    assert abs(sum(f.startswith("a") for f in finished) - 20) <= 2


def test_weights_divide_the_service() -> None:
    rig = Rig(max_num_seqs=4)
    for i in range(200):
        rig.add(f"a{i}", "acme", TenantSettings(weight=3), generate=4)
        rig.add(f"g{i}", "globex", TenantSettings(weight=1), generate=4)
    while len(rig.finished) < 160:
        rig.step()
    acme = sum(f.startswith("a") for f in rig.finished)
    assert acme / len(rig.finished) == pytest.approx(0.75, abs=0.03)


def test_a_tenant_is_kept_below_its_limit_while_it_grows() -> None:
    rig = Rig(blocks=100, max_num_seqs=8)
    half = TenantSettings(kv_limit=0.5)
    for i in range(8):
        rig.add(f"r{i}", "acme", half, prompt=20, generate=60)
    most = 0
    while rig.scheduler.get_num_unfinished_requests():
        rig.step()
        rig.check_accounting()
        most = max(most, rig.report("acme")["kv_blocks"])
        assert rig.running().get("acme", 0) <= 4
    assert 45 <= most <= 50
    assert rig.scheduler.arbiter.counters.preempted_for_limit > 0
    assert all(tokens == expected(20, 60) for tokens in rig.tokens.values())


def test_a_shared_prefix_counts_once_against_the_limit() -> None:
    rig = Rig(blocks=100, max_num_seqs=16)
    system_prompt = list(range(10, 10 + 40 * BLOCK_SIZE))
    limit = TenantSettings(kv_limit=0.5)
    rig.add("warm", "acme", limit, prompt=[*system_prompt, 1], generate=30)
    rig.step()
    for i in range(3):
        rig.add(f"r{i}", "acme", limit, prompt=[*system_prompt, 2 + i], generate=2)
    rig.step()
    assert rig.running() == {"acme": 4}  # four times 41 blocks, but 40 of them are the same ones
    rig.check_accounting()


def test_what_others_leave_idle_is_lent_and_comes_back_at_once() -> None:
    rig = Rig(blocks=400, max_num_seqs=8)
    for i in range(8):
        rig.add(f"g{i}", "globex", prompt=40, generate=100)
    for _ in range(10):
        rig.step()
    assert rig.running() == {"globex": 8}
    rig.add("a", "acme", TenantSettings(kv_guarantee=0.25), prompt=40, generate=10)
    rig.step()
    assert rig.running() == {"globex": 7, "acme": 1}
    assert rig.requests["g7"].num_preemptions == 1, "the newest request gives way"
    while "a" not in rig.finished:
        rig.step()
    rig.run()
    assert rig.tokens["g7"] == expected(40, 100)
    assert rig.scheduler.arbiter.counters.starved_steps == 0


def test_reclaim_takes_from_the_furthest_above_its_guarantee_and_never_from_below() -> None:
    rig = Rig(blocks=100, max_num_seqs=16)
    for i in range(4):
        rig.add(f"b{i}", "big", TenantSettings(kv_guarantee=0.1), prompt=40, generate=40)
    for i in range(3):
        rig.add(f"g{i}", "good", TenantSettings(kv_guarantee=0.6), prompt=40, generate=40)
    rig.step()
    rig.step()
    rig.add("s", "small", TenantSettings(kv_guarantee=0.3), prompt=96, generate=4)
    rig.step()
    assert rig.running()["small"] == 1
    assert all(rig.requests[f"g{i}"].num_preemptions == 0 for i in range(3))
    assert rig.requests["b3"].num_preemptions == 1
    rig.run()


def test_a_lower_limit_holds_at_once_for_what_runs_and_what_comes() -> None:
    rig = Rig(blocks=100, max_num_seqs=8)
    for i in range(8):
        rig.add(f"r{i}", "acme", TenantSettings(), prompt=20, generate=60)
    for _ in range(4):
        rig.step()
    assert rig.running() == {"acme": 8}
    rig.add("late", "acme", TenantSettings(kv_limit=0.25), prompt=20, generate=20)
    rig.step()
    assert rig.running()["acme"] <= 2
    rig.run()
    assert rig.scheduler.arbiter.counters.limit_violations == 0
    assert rig.tokens["r7"] == expected(20, 60)


def test_a_request_that_was_admitted_under_a_higher_limit_is_not_left_waiting_for_ever() -> None:
    rig = Rig(blocks=100)
    rig.add("large", "acme", TenantSettings(kv_limit=0.8), prompt=200, generate=40)
    rig.add("small", "acme", TenantSettings(kv_limit=0.1), prompt=8, generate=4)
    rig.run(steps=400)
    assert rig.tokens["large"] == expected(200, 40)


def test_a_long_prompt_leaves_room_in_the_step_for_other_tenants() -> None:
    rig = Rig(blocks=1000, max_tokens_per_step=64)
    rig.add("long", "globex", prompt=2000, generate=2)
    rig.step()
    rig.add("short", "acme", prompt=20, generate=2)
    step = rig.step()
    assert step.num_scheduled_tokens["short"] == 20
    assert step.num_scheduled_tokens["long"] == 44, "and nothing of the step is wasted"
    rig.run()


def test_aborting_waiting_and_running_requests_gives_everything_back() -> None:
    rig = Rig(blocks=60)
    for i in range(20):
        rig.add(f"r{i}", "ab"[i % 2], prompt=30, generate=30)
    for i in range(20):
        rig.step()
        rig.abort(f"r{i}")
        rig.check_accounting()
    assert not len(rig.scheduler.waiting)
    assert rig.report("a")["kv_blocks"] == rig.report("b")["kv_blocks"] == 0


def test_a_paused_scheduler_preempts_nobody() -> None:
    from vllm.v1.core.sched.interface import PauseState

    rig = Rig(blocks=100, max_num_seqs=8)
    for i in range(8):
        rig.add(f"g{i}", "globex", prompt=30, generate=20)
    rig.step()
    rig.scheduler.set_pause_state(PauseState.PAUSED_NEW)
    rig.add("a", "acme", TenantSettings(kv_guarantee=0.25), prompt=40, generate=10)
    rig.step()
    assert rig.running() == {"globex": 8}
    rig.scheduler.set_pause_state(PauseState.UNPAUSED)
    rig.step()
    assert rig.running() == {"globex": 7, "acme": 1}


def test_the_report_has_what_metrics_and_the_ledger_need() -> None:
    rig = Rig(blocks=100, max_num_seqs=2)
    for i in range(3):
        rig.add(f"r{i}", "acme", TenantSettings(kv_guarantee=0.25, kv_limit=0.75), prompt=8, generate=20)
    rig.step()
    report = rig.scheduler.report()
    assert report["capacity"] == {"kv_blocks": 100, "block_size_tokens": BLOCK_SIZE, "max_num_seqs": 2}
    acme = report["tenants"]["acme"]
    assert (acme["running"], acme["waiting"], acme["kv_blocks"]) == (1, 2, 2)
    assert (acme["guaranteed_blocks"], acme["limit_blocks"]) == (25, 75)
    rig.step()
    assert rig.report("acme")["kv_block_seconds"] > acme["kv_block_seconds"]


def test_block_seconds_are_counted_by_tenant_and_adapter() -> None:
    rig = Rig(blocks=100, max_loras=2, step_s=0.5)
    shared = list(range(10, 30))  # five blocks
    rig.add("base", "acme", prompt=shared, generate=20)
    rig.add("tuned", "acme", prompt=8, generate=20, adapter=3)
    rig.step()
    before = rig.report("acme")
    rig.now_s += 2
    after = rig.report("acme")
    assert after["kv_block_seconds"] - before["kv_block_seconds"] == 2 * (5 + 2)
    spent = {
        adapter: after["adapter_kv_block_seconds"][adapter] - before["adapter_kv_block_seconds"][adapter]
        for adapter in (0, 3)
    }
    assert spent == {0: 2 * 5, 3: 2 * 2}
    rig.run()
    ended = rig.report("acme")
    rig.now_s += 10
    assert rig.report("acme") == ended
    assert sum(ended["adapter_kv_block_seconds"].values()) == pytest.approx(ended["kv_block_seconds"])
