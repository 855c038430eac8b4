"""The tenant scheduler in a real engine: answers survive preemption, guarantees hold, adapters take turns."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

import demo
from adapters.tenant_settings import TenantSettings
from demo.random_adapter import write_random_adapter
from server.engine.scheduling.scheduler_report import read
from server.fairness.shares import stamp

pytestmark = pytest.mark.alone  # it measures times

BLOCKS, BLOCK_SIZE, SLOTS = 60, 32, 6
LORA_SLOT_WAIT_S = 1.0
TIE = 1e-3
"""Two tokens whose log-probabilities are this close may swap when a batch adds up in another order."""


@dataclass
class Answer:
    tokens: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    first_token_s: float = 0.0


def start_engine() -> AsyncLLM:
    kv_bytes_per_token = 2 * 4 * 2 * 64 * 4  # keys and values, layers, KV heads, head size, float32
    return AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=str(demo.MODEL_DIR),
            dtype="float32",
            enforce_eager=True,
            max_model_len=512,
            max_num_seqs=SLOTS,
            max_num_batched_tokens=256,
            block_size=BLOCK_SIZE,
            kv_cache_memory_bytes=(BLOCKS + 1) * BLOCK_SIZE * kv_bytes_per_token,
            enable_lora=True,
            max_loras=1,
            max_cpu_loras=4,
            max_lora_rank=16,
            scheduler_cls="server.engine.scheduling.scheduler.TenantScheduler",
            additional_config={"loragate": {"lora_slot_wait_s": LORA_SLOT_WAIT_S}},
        )
    )


@pytest.fixture(scope="module")
async def engine() -> AsyncIterator[AsyncLLM]:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    engine = start_engine()
    yield engine
    engine.shutdown()


async def ask(
    engine: AsyncLLM,
    name: str,
    policy: TenantSettings,
    seed: int,
    *,
    prompt: int = 64,
    generate: int = 64,
    lora: LoRARequest | None = None,
) -> Answer:
    """One greedy answer for the tenant that `name` begins with."""
    tenant = name.split("-")[0]
    params = SamplingParams(
        temperature=0.0,
        max_tokens=generate,
        ignore_eos=True,
        logprobs=2,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args={"loragate": stamp(tenant, policy)},
    )
    tokens = [(seed * 7919 + i * 104729) % 1500 + 20 for i in range(prompt)]
    answer, began = Answer(), time.monotonic()
    stream = engine.generate(
        {"prompt_token_ids": tokens, "cache_salt": tenant},
        params,
        f"{name}-{time.time_ns()}",
        lora_request=lora,
    )
    async for output in stream:
        answer.first_token_s = answer.first_token_s or time.monotonic() - began
        for sequence in output.outputs:
            answer.tokens += sequence.token_ids
            for logprobs in sequence.logprobs or ():
                best, second = sorted((entry.logprob for entry in logprobs.values()), reverse=True)[:2]
                answer.margins.append(best - second)
    return answer


def assert_same(answer: Answer, undisturbed: Answer) -> None:
    """Token by token, up to a tie that float32 cannot decide."""
    for i, (token, wanted) in enumerate(zip(answer.tokens, undisturbed.tokens, strict=True)):
        if token != wanted:
            assert undisturbed.margins[i] < TIE, f"token {i} is {token}, undisturbed {wanted}"
            return


async def tally(engine: AsyncLLM) -> dict[str, int]:
    counted: dict[str, int] = (await read(engine))["counters"]
    return counted


async def test_the_engine_reports_its_capacity(engine: AsyncLLM) -> None:
    report = await read(engine)
    assert report["capacity"] == {"kv_blocks": BLOCKS, "block_size_tokens": BLOCK_SIZE, "max_num_seqs": SLOTS}
    assert engine.vllm_config.cache_config.num_gpu_blocks == BLOCKS + 1


async def test_answers_after_reclaim_are_the_undisturbed_ones(engine: AsyncLLM) -> None:
    owed, free = TenantSettings(kv_guarantee=0.5), TenantSettings()
    names = [("globex", free, seed) for seed in range(6)] + [("acme", owed, seed) for seed in range(10, 13)]
    alone = {(n, s): await ask(engine, f"{n}-{s}", TenantSettings(), s, generate=96) for n, _, s in names}
    before = await tally(engine)

    tasks = {}
    for name, policy, seed in names:
        tasks[name, seed] = asyncio.create_task(ask(engine, f"{name}-{seed}", policy, seed, generate=96))
        await asyncio.sleep(0.15 if name == "acme" else 0.0)
    answers = {key: await task for key, task in tasks.items()}

    for key, answer in answers.items():
        assert_same(answer, alone[key])
    after = await tally(engine)
    assert after["preempted_for_guarantee"] > before["preempted_for_guarantee"]
    assert (after["starved_steps"], after["limit_violations"]) == (0, 0)


async def test_weights_divide_the_service_of_busy_tenants(engine: AsyncLLM) -> None:
    heavy, light = TenantSettings(weight=3.0), TenantSettings(weight=1.0)

    async def client(name: str, policy: TenantSettings, shape: tuple[int, int]) -> None:
        for i in range(1000):
            await ask(engine, f"{name}-{i}", policy, i, prompt=shape[0], generate=shape[1])

    clients = [asyncio.create_task(client("heavy", heavy, (120, 8))) for _ in range(10)]
    clients += [asyncio.create_task(client("light", light, (12, 24))) for _ in range(10)]
    await asyncio.sleep(2.0)
    start = (await read(engine))["tenants"]
    await asyncio.sleep(6.0)
    end = (await read(engine))["tenants"]
    for task in clients:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    # `service` is divided by the weight, so busy tenants gain the same.
    gained = {name: end[name]["service"] - start[name]["service"] for name in ("heavy", "light")}
    assert gained["heavy"] == pytest.approx(gained["light"], rel=0.1)


async def test_a_tenant_stays_below_its_limit_with_the_cache_half_empty(engine: AsyncLLM) -> None:
    limited = TenantSettings(kv_limit=0.5)
    before = await tally(engine)
    tasks = [
        asyncio.create_task(ask(engine, f"small-{i}", limited, i, prompt=80, generate=240)) for i in range(4)
    ]
    most = 0
    while not all(task.done() for task in tasks):
        tenant = (await read(engine))["tenants"].get("small")
        most = max(most, tenant["kv_blocks"] if tenant else 0)
        await asyncio.sleep(0.01)
    assert [len((await task).tokens) for task in tasks] == [240] * 4
    assert 20 < most <= BLOCKS // 2
    assert (await tally(engine))["limit_violations"] == before["limit_violations"] == 0


async def test_a_cold_adapter_is_served_within_the_bound(engine: AsyncLLM, tmp_path: Path) -> None:
    loras = []
    for n in (1, 2, 3):
        path = write_random_adapter(tmp_path / f"a{n}", seed=n, rank=8)
        loras.append(LoRARequest(f"a{n}", n, str(path)))
        assert await engine.add_lora(loras[-1])
    alone = [await ask(engine, "acme-warm", TenantSettings(), 1, generate=300, lora=lora) for lora in loras]

    answers = await asyncio.gather(
        *(ask(engine, "acme-turn", TenantSettings(), 1, generate=300, lora=lora) for lora in loras)
    )
    for answer, undisturbed in zip(answers, alone, strict=True):
        assert_same(answer, undisturbed)
        assert answer.first_token_s < LORA_SLOT_WAIT_S + 0.3
    for lora in loras:
        await engine.remove_lora(lora.lora_int_id)


async def test_aborted_requests_leave_nothing_behind(engine: AsyncLLM) -> None:
    tasks = [
        asyncio.create_task(ask(engine, f"gone-{i}", TenantSettings(), i, prompt=100, generate=300))
        for i in range(9)
    ]
    await asyncio.sleep(0.5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    deadline = time.monotonic() + 5
    while (gone := (await read(engine))["tenants"]["gone"])["kv_blocks"] or gone["waiting"]:
        assert time.monotonic() < deadline, gone
        await asyncio.sleep(0.05)
    assert gone["running"] == 0
