from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus
from vllm.v1.sample import sampler
from vllm.v1.sample.ops.logprobs import batched_count_greater_than

from server.engine.process.cpu_worker import count_not_less
from server.engine.scheduling.prompt_logprob_rows import PromptLogprobRows
from tests.unit.server.engine.scheduling.scheduler_rig import Rig


@pytest.fixture
def rig() -> Rig:
    """A step computes the log-probabilities of 16 prompt tokens."""
    rig = Rig(blocks=400, max_tokens_per_step=256)
    rig.scheduler._prompt_rows.per_step = 16
    return rig


def prompt_rows(rig: Rig, names: set[str]) -> list[int]:
    """Prompt tokens of these requests in each step, without the tokens that they generate."""
    left = {name: rig.requests[name].num_prompt_tokens for name in names}
    rows = []
    for step in rig.steps:
        taken = {name: min(step.num_scheduled_tokens.get(name, 0), left[name]) for name in names}
        left = {name: left[name] - taken[name] for name in names}
        rows.append(sum(taken.values()))
    assert not any(left.values())
    return rows


def test_a_step_computes_few_rows_of_a_prompt_with_logprobs_and_others_go_on(rig: Rig) -> None:
    rig.add("log", "acme", prompt=200, generate=4, prompt_logprobs=20)
    rig.step()
    rig.add("plain", "globex", prompt=100, generate=12)
    rig.run()
    assert max(prompt_rows(rig, {"log"})) == 16
    assert set(rig.finished) == {"log", "plain"}
    assert rig.finished[0] == "plain"
    assert max(step.num_scheduled_tokens.get("plain", 0) for step in rig.steps) == 100  # in one piece
    rig.check_accounting()


def test_tenants_share_the_rows_of_a_step_equally(rig: Rig) -> None:
    many = {f"acme{i}" for i in range(5)}
    for name in sorted(many):
        rig.add(name, "acme", prompt=60, generate=3, prompt_logprobs=0)
    rig.add("one", "globex", prompt=60, generate=3, prompt_logprobs=0)
    rig.run()
    rows = prompt_rows(rig, many | {"one"})
    assert max(rows[1:]) <= 16 and rows[0] <= 16 + 6  # each start takes a token, although no rows are left
    assert set(rig.finished[:2]) == {"acme0", "one"}
    assert set(rig.finished) == many | {"one"}
    assert all(len(rig.tokens[name]) == 3 for name in many)


@pytest.mark.parametrize(
    ("device", "others", "rows"),
    [
        ("cpu", True, [0, 0, 32, 0, 0, 32]),
        ("cpu", False, [128] * 6),
        ("cuda", True, [1766] * 6),
    ],
)
def test_beside_others_steps_on_a_cpu_compute_fewer(device: str, others: bool, rows: list[int]) -> None:
    config: Any = SimpleNamespace(
        device_config=SimpleNamespace(device_type=device),
        model_config=SimpleNamespace(get_vocab_size=lambda: 1_000 if device == "cpu" else 151_936),
    )
    running = [request("log", "acme", prompt_logprobs=5), request("own", "acme", prompt_logprobs=None)]
    if others:
        running.append(request("plain", "globex", prompt_logprobs=None))
    scheduler: Any = SimpleNamespace(_reserve_prefill_lookahead=lambda *of: of[2], running=running)
    scheduler.requests = {each.request_id: each for each in running}
    prompts = PromptLogprobRows(scheduler, config)
    prompts.add(running[0])
    found = []
    for _ in rows:
        prompts.begin_step()
        found.append(scheduler._reserve_prefill_lookahead(running[0], 0, 3000))
    assert found == rows
    running[0].num_preemptions = 1  # it begins anew each time
    prompts.begin_step()
    assert scheduler._reserve_prefill_lookahead(running[0], 0, 3000) == prompts.per_step


def request(name: str, tenant: str, prompt_logprobs: int | None) -> Any:
    """A running request with a long prompt."""
    return SimpleNamespace(
        request_id=name,
        num_prompt_tokens=3000,
        num_preemptions=0,
        status=RequestStatus.RUNNING,
        loragate_entry=SimpleNamespace(tenant=tenant),
        sampling_params=SimpleNamespace(prompt_logprobs=prompt_logprobs),
    )


def test_the_background_takes_no_rows_that_a_request_wants(rig: Rig) -> None:
    rig.add("evaluated", "acme", prompt=100, generate=1, prompt_logprobs=0, background=True)
    for _ in range(2):
        rig.step()
    rig.add("asked", "acme", prompt=100, generate=3, prompt_logprobs=0)
    rig.run()
    assert rig.finished == ["asked", "evaluated"]
    wanted = [step.num_scheduled_tokens.get("asked", 0) for step in rig.steps]
    assert [tokens for tokens in wanted if tokens][:6] == [16] * 6, "all rows of each step"


def test_vllms_method_is_back_when_the_last_such_request_has_ended(rig: Rig) -> None:
    before = rig.scheduler._reserve_prefill_lookahead
    rig.add("log", prompt=64, generate=3, prompt_logprobs=1)
    rig.add("gone", prompt=64, generate=3, prompt_logprobs=1)
    rig.step()
    assert rig.scheduler._reserve_prefill_lookahead != before
    rig.abort("gone")
    rig.run()
    assert rig.scheduler._reserve_prefill_lookahead == before


@pytest.mark.parametrize(
    ("device", "vocabulary", "rows"),
    [("cpu", 1_000, 128), ("cpu", 151_936, 13), ("cpu", 2**22, 1), ("cuda", 151_936, 1766)],
)
def test_rows_of_a_step(device: str, vocabulary: int, rows: int) -> None:
    config: Any = SimpleNamespace(
        device_config=SimpleNamespace(device_type=device),
        model_config=SimpleNamespace(get_vocab_size=lambda: vocabulary),
    )
    scheduler = SimpleNamespace(_reserve_prefill_lookahead=None)
    assert PromptLogprobRows(scheduler, config).per_step == rows


def test_vllm_calls_the_method_for_running_and_for_waiting_requests() -> None:
    """server/engine/scheduling/prompt_logprob_rows.py"""
    assert inspect.getsource(Scheduler.schedule).count("self._reserve_prefill_lookahead(") == 2
    parameters = list(inspect.signature(Scheduler._reserve_prefill_lookahead).parameters)
    assert parameters == ["self", "request", "num_computed_tokens", "num_new_tokens"]


def test_ranks_are_counted_without_a_compiler() -> None:
    """server/engine/process/cpu_worker.py"""
    assert sampler.batched_count_greater_than is batched_count_greater_than
    assert "batched_count_greater_than(logprobs, token_logprobs)" in inspect.getsource(sampler)
    rows = torch.tensor([[0.1, 0.5, 0.5, 0.2], [1.0, -2.0, 3.0, float("-inf")]])
    values = torch.tensor([[0.5], [1.0]])
    plain = batched_count_greater_than._torchdynamo_orig_callable(rows, values)
    assert count_not_less(rows, values).tolist() == plain.tolist() == [2, 2]
    assert count_not_less(rows, values).dtype == plain.dtype
