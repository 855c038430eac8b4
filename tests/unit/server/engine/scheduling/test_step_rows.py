"""A tenant with many sequences beside one with few, in vLLM's real scheduler."""

from __future__ import annotations

import inspect

import pytest
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from adapters.tenant_settings import TenantSettings
from tests.unit.server.engine.scheduling.scheduler_rig import Rig


@pytest.fixture(params=[1, 2], ids=["synchronous", "asynchronous"])
def depth(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def crowded(depth: int, *, row_s: float, generate: int = 120, weight: float = 1.0) -> Rig:
    """16 sequences of acme run beside one of globex, whose steps have been timed before."""
    rig = Rig(depth=depth, blocks=2000, max_num_seqs=32, max_tokens_per_step=512, step_s=0.01, row_s=row_s)
    rig.add("alone", "globex", generate=6)
    rig.run()
    for number in range(16):
        rig.add(f"a{number}", policy=TenantSettings(weight=weight), generate=generate)
    rig.add("g", "globex", generate=generate)
    for _ in range(20):
        rig.step()
    return rig


def rows(rig: Rig, tenant: str = "a") -> int:
    """Sequences of acme in the next step."""
    return sum(1 for request_id in rig.step().num_scheduled_tokens if request_id.startswith(tenant))


def test_where_sequences_cost_no_time_none_is_held_back(depth: int) -> None:
    rig = crowded(depth, row_s=0.0)
    assert {rows(rig) for _ in range(20)} == {16}


def test_a_step_lasts_at_most_twice_as_long_as_with_equal_sequences(depth: int) -> None:
    rig = crowded(depth, row_s=0.01)
    # With one sequence each a step takes 30 ms; 60 ms are five sequences.
    assert {rows(rig) for _ in range(20)} <= {3, 4}
    assert all("g" in output.num_scheduled_tokens for output in rig.steps[-20:])


def test_sequences_that_are_held_back_take_turns_and_get_the_same_tokens(depth: int) -> None:
    rig = crowded(depth, row_s=0.01, generate=100)
    for _ in range(60):
        rig.step()
    lengths = [len(tokens) for request_id, tokens in rig.tokens.items() if request_id.startswith("a")]
    assert len(set(lengths)) > 1 and max(lengths[1:]) - min(lengths[1:]) <= 16
    rig.check_accounting()
    rig.run()
    free = crowded(depth, row_s=0.0, generate=100)
    free.run()
    assert rig.tokens == free.tokens
    assert set(rig.finished) == set(rig.requests)


def test_a_weight_buys_sequences(depth: int) -> None:
    rig = crowded(depth, row_s=0.01, weight=4.0)
    # Four sequences of acme for one of globex: 60 ms, so 120 ms are eleven.
    assert {rows(rig) for _ in range(20)} <= {9, 10}


def test_a_tenant_without_requests_is_remembered_for_a_second(depth: int) -> None:
    rig = crowded(depth, row_s=0.01, generate=400)
    rig.abort("g")
    rig.step()
    left_s, counts = rig.now_s, []
    while rig.now_s - left_s < 2.5:
        counts.append(rows(rig))
    assert set(counts[:8]) <= {3, 4, 5}
    assert counts[-1] == 16


def test_a_preempted_sequence_goes_on(depth: int) -> None:
    rig = crowded(depth, row_s=0.01, generate=40)
    rig.scheduler.preempt("a3")
    rig.run()
    assert {len(tokens) for request_id, tokens in rig.tokens.items() if request_id != "alone"} == {40}


def timed(depth: int) -> Rig:
    """Steps of one and of 16 sequences have been timed; one sequence of globex runs."""
    rig = Rig(depth=depth, blocks=2000, max_num_seqs=32, max_tokens_per_step=512, step_s=0.01, row_s=0.01)
    for number in range(16):
        rig.add(f"before{number}", generate=6)
    rig.run()
    rig.add("g", "globex", generate=300)
    for _ in range(10):
        rig.step()
    return rig


def test_only_so_many_start_as_may_be_computed(depth: int) -> None:
    rig = timed(depth)
    for number in range(40):
        rig.add(f"a{number}", generate=2)
    for _ in range(40):
        rig.step()
        assert rig.running().get("acme", 0) <= 5
    rig.run()
    assert {len(rig.tokens[f"a{number}"]) for number in range(40)} == {2}


def test_a_guarantee_is_kept(depth: int) -> None:
    rig = timed(depth)
    for number in range(16):
        rig.add(f"a{number}", policy=TenantSettings(kv_guarantee=0.25), generate=60)
    for _ in range(10):
        rig.step()
    assert rig.running()["acme"] == 8 and rows(rig) == 8
    assert rig.scheduler.report()["counters"]["starved_steps"] == 0
    rig.run()


def test_vllm_passes_over_a_running_request_until_its_step() -> None:
    source = inspect.getsource(Scheduler.schedule)
    counted = source.index("self.current_step += 1")
    assert counted < source.index("if self.current_step < request.next_decode_eligible_step:")
    assert "self.next_decode_eligible_step = 0" in inspect.getsource(Request.__init__)
    parameters = list(inspect.signature(Scheduler.update_from_output).parameters)
    assert parameters == ["self", "scheduler_output", "model_runner_output"]
