"""Plans add up, and every change that is advised really fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from server.planner.advice import advise
from server.planner.errors import InvalidPlanRequest
from server.planner.models import find_shape
from server.planner.plan import GIB, Plan, PlanRequest, make_plan
from server.planner.request import main_memory, parse_bytes

ISSUE = PlanRequest(memory_bytes=24 * GIB, max_model_len=4096, concurrency=50)


def plan(plan_request: PlanRequest, model: str = "Qwen/Qwen2.5-3B") -> Plan:
    return make_plan(find_shape(model), plan_request)


def test_the_issues_example() -> None:
    made = plan(ISSUE)
    assert made.fits and made.kv_bytes_per_token == 36_864 and made.weights_bytes == 2 * 3_085_938_688
    parts = made.weights_bytes + made.lora_slots_bytes + made.activations_bytes + made.runtime_bytes
    assert parts + made.kv_cache_bytes == made.usable_bytes == int(24 * GIB * 0.9)
    assert made.kv_blocks == made.kv_cache_bytes // (16 * 36_864)
    assert made.full_length_sequences == (made.kv_blocks - 1) // 256 >= 50
    assert advise(find_shape("Qwen/Qwen2.5-3B"), ISSUE) == ()


def test_guaranteed_tokens_are_whole_blocks_of_what_requests_can_use() -> None:
    made = plan(replace(ISSUE, guarantees={"acme": 0.25, "globex": 0.75}))
    assert made.guaranteed_tokens["acme"] == int((made.kv_blocks - 1) * 0.25) * 16
    assert sum(made.guaranteed_tokens.values()) <= made.kv_tokens


def test_vllm_blocks_of_an_explicit_cache() -> None:
    """As `get_kv_cache_config_from_groups` of vLLM 0.32: bytes // bytes of a block in all layers."""
    made = plan(replace(ISSUE, device="cpu", dtype="float32", kv_cache_memory_bytes=10**9, concurrency=1))
    assert made.block_size_tokens == 128 and made.kv_blocks == 10**9 // (128 * 2 * 36 * 2 * 128 * 4)


@pytest.mark.parametrize(
    ("plan_request", "model", "expected"),
    [
        (replace(ISSUE, max_model_len=32_768), "Qwen/Qwen2.5-3B", "--max-model-len"),
        (replace(ISSUE, concurrency=100, max_num_seqs=64), "Qwen/Qwen2.5-3B", "--max-num-seqs 100"),
        (replace(ISSUE, concurrency=13), "Qwen/Qwen2.5-14B", "--quantization awq"),
        (
            replace(ISSUE, concurrency=104, max_num_seqs=128),
            "Qwen/Qwen2.5-3B",
            "--gpu-memory-utilization 0.91",
        ),
        (replace(ISSUE, concurrency=104, max_num_seqs=128), "Qwen/Qwen2.5-3B", "--max-loras"),
        (replace(ISSUE, kv_cache_memory_bytes=10**13), "Qwen/Qwen2.5-3B", "--kv-cache-memory-bytes"),
        (replace(ISSUE, kv_cache_memory_bytes=10**7), "Qwen/Qwen2.5-3B", "--kv-cache-memory-bytes"),
        (ISSUE, "Qwen/Qwen2.5-14B", "--tensor-parallel-size 4"),
        (replace(ISSUE, memory_bytes=GIB), "Qwen/Qwen2.5-72B", "--memory"),
    ],
)
def test_advice(plan_request: PlanRequest, model: str, expected: str) -> None:
    made = plan(plan_request, model)
    assert not made.fits and made.problem
    changes = advise(find_shape(model), plan_request)
    assert any(expected in change.flags for change in changes), changes
    assert all(change.plan.fits for change in changes)


@settings(max_examples=examples(60), deadline=None)
@given(
    model=st.sampled_from(["Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-7B", "Qwen/Qwen3-8B", "Qwen/Qwen3-32B-AWQ"]),
    plan_request=st.builds(
        PlanRequest,
        memory_bytes=st.integers(1, 160).map(lambda n: n * GIB),
        device=st.sampled_from(["cuda", "cpu"]),
        max_model_len=st.integers(256, 40_000),
        max_num_seqs=st.integers(1, 256),
        max_loras=st.integers(1, 64),
        max_lora_rank=st.sampled_from([8, 16, 64, 256]),
        concurrency=st.integers(1, 128),
        kv_cache_memory_bytes=st.none() | st.integers(10**6, 10**11),
    ),
)
def test_what_is_advised_fits_and_nothing_is_advised_in_vain(model: str, plan_request: PlanRequest) -> None:
    shape = find_shape(model)
    made, changes = make_plan(shape, plan_request), advise(shape, plan_request)
    assert made.fits == (not made.problem)
    assert not (made.fits and changes)
    assert all(change.plan.fits for change in changes)
    assert made.kv_blocks * made.block_size_tokens * made.kv_bytes_per_token <= made.kv_cache_bytes


def test_amounts_of_memory() -> None:
    assert parse_bytes("24GiB") == 24 * GIB and parse_bytes("24 g") == 24 * 10**9 and parse_bytes("7") == 7
    assert parse_bytes("1.5GB") == 1_500_000_000
    for text in ("", "much", "-3GiB", "3 GiB more"):
        with pytest.raises(InvalidPlanRequest):
            parse_bytes(text)
    total, available = main_memory()
    assert total >= available >= 0


def test_what_cannot_be_planned_is_said() -> None:
    with pytest.raises(InvalidPlanRequest, match="heads"):
        plan(replace(ISSUE, tensor_parallel_size=3))
    with pytest.raises(InvalidPlanRequest, match="int3"):
        plan(replace(ISSUE, dtype="int3"))
