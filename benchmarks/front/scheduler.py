"""The scheduler's processor time per sequence of a step: ours and vLLM's own, without clients and servers.

    python -m benchmarks.front.scheduler

Two EngineCores with the executor without a model, in a process each, step in turns, with the same requests: 64
tenants and 32 adapters. A new request arrives for each that ends. Only `schedule` and `update_from_output` are timed.
Each has a processor core of its own, as an EngineCore has beside its server: two on one core would find its caches
filled with the other's code and requests, which is most of the time of what runs once in a step.
A time is divided by the sequences of its step, as ours may hold some back where each makes a step longer
(server/fairness/row_shares.py).

Leans on (vLLM 0.32): v1.engine.core.EngineCore (`scheduler`, `model_executor`, `preprocess_add_request`,
`add_request`), v1.engine.EngineCoreRequest, engine.arg_utils.AsyncEngineArgs.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import os
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import demo
from adapters.tenant_settings import TenantSettings
from benchmarks.front.executor import ModelFreeExecutor
from benchmarks.harness.progress import ProgressReporter
from server.fairness.shares import STAMP_KEY, stamp

SEQUENCES = (256, 1024)
TENANTS, ADAPTERS = 64, 32
_SCHEDULER = "server.engine.scheduling.scheduler.TenantScheduler"
_PROMPT_TOKENS, _ANSWER_TOKENS = (16, 64), (32, 160)
#: Pairs of steps until the sequences are at all places of their answers, and pairs that are measured.
_WARM_UP, _PAIRS = 2 * max(_ANSWER_TOKENS), 240
#: The number of sequences rises in so many parts, each after so many steps, as it does when a server's load rises.
_RAMP, _RAMP_STEPS = 32, 4
#: Pairs of processes, half of them with the cores changed over. Where its memory lies makes a process up to 2 %
#: faster than another one with the same code.
_PROCESSES = 4


class _Engine:
    """An EngineCore that always has the same number of sequences."""

    def __init__(self, sequences: int, scheduler: str | None) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.core import EngineCore

        arguments: dict[str, Any] = {} if scheduler is None else {"scheduler_cls": scheduler}
        config = AsyncEngineArgs(
            model=str(demo.MODEL_DIR),
            dtype="float32",
            enable_lora=True,
            max_loras=ADAPTERS,
            max_cpu_loras=ADAPTERS,
            max_lora_rank=16,
            max_num_seqs=sequences,
            max_num_batched_tokens=32768,
            kv_cache_memory_bytes=2 << 30,
            enforce_eager=True,
            **arguments,
        ).create_engine_config()
        self._core = EngineCore(config, ModelFreeExecutor, log_stats=True)
        self._rng = random.Random(sequences)
        self._numbers = itertools.count()
        self._sequences = sequences
        self._running = 0
        self._steps = 0

    def step(self) -> tuple[float, int]:
        """Run a step. Returns: seconds of processor time that the scheduler took, and the sequences of the step.

        The first steps have fewer sequences: ours learns how long a step of each size lasts.
        """
        most = min(self._sequences, self._sequences // _RAMP * (1 + self._steps // _RAMP_STEPS))
        self._steps += 1
        while self._running < most:
            self._add(next(self._numbers))
            self._running += 1
        scheduler, executor = self._core.scheduler, self._core.model_executor
        began_s = time.thread_time()
        scheduled = scheduler.schedule()
        took_s = time.thread_time() - began_s
        executor.execute_model(scheduled)
        sampled = executor.sample_tokens(None)
        began_s = time.thread_time()
        outputs = scheduler.update_from_output(scheduled, sampled)
        took_s += time.thread_time() - began_s
        ended = (output.finish_reason is not None for each in outputs.values() for output in each.outputs)
        self._running -= sum(ended)
        return took_s, len(scheduled.num_scheduled_tokens)

    def _add(self, number: int) -> None:
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine import EngineCoreRequest

        tenant, adapter = number % TENANTS, number % ADAPTERS + 1
        params = SamplingParams(
            max_tokens=self._rng.randint(*_ANSWER_TOKENS), output_kind=RequestOutputKind.DELTA
        )
        params.extra_args = {STAMP_KEY: stamp(f"tenant-{tenant}", TenantSettings())}
        request = EngineCoreRequest(
            request_id=str(number),
            external_req_id=str(number),
            prompt_token_ids=self._rng.choices(range(1000), k=self._rng.randint(*_PROMPT_TOKENS)),
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=LoRARequest(f"adapter-{adapter}", adapter, "/nowhere"),
            cache_salt=f"tenant-{tenant}",
            data_parallel_rank=None,
        )
        self._core.add_request(*self._core.preprocess_add_request(request))


_engine: _Engine


def _start(sequences: int, scheduler: str | None, cores: set[int]) -> None:
    """Make the engine of this process."""
    global _engine
    os.sched_setaffinity(0, cores)
    os.environ["VLLM_PLUGINS"] = ""
    _engine = _Engine(sequences, scheduler)


def _step() -> tuple[float, int]:
    return _engine.step()


def measure(progress: ProgressReporter) -> list[dict[str, Any]]:
    """Time the steps. Returns: a record for each number of sequences, times in microseconds per sequence."""
    found = [_measure(sequences) for sequences in SEQUENCES]
    for record in found:
        progress.log(f"scheduler: {record}")
    return found


def _measure(sequences: int) -> dict[str, Any]:
    steps: dict[str, list[tuple[float, int]]] = {"ours": [], "stock": []}
    shares: list[float] = []
    for number in range(_PROCESSES):
        taken = _steps_of_two_processes(sequences, _cores(number))
        shares.append(_share(taken["ours"], taken["stock"]))
        for name in steps:
            steps[name] += taken[name]
    rows = {name: sum(rows for _, rows in taken) for name, taken in steps.items()}
    return {
        "sequences": sequences,
        **{f"{name}_us": round(statistics.median(_us(taken)), 2) for name, taken in steps.items()},
        "rows": round(rows["ours"] / rows["stock"], 4),
        "share": round(_share(steps["ours"], steps["stock"]), 4),
        "shares": [round(share, 4) for share in shares],
    }


def _us(steps: Sequence[tuple[float, int]]) -> list[float]:
    return [1e6 * took_s / rows for took_s, rows in steps]


def _share(ours: Sequence[tuple[float, int]], stock: Sequence[tuple[float, int]]) -> float:
    return float(statistics.median(map(operator.truediv, _us(ours), _us(stock)))) - 1


def _cores(number: int) -> tuple[set[int], set[int]]:
    """The cores of both processes of a pair: one each, changed over from pair to pair, where there are two."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        return set(usable), set(usable)
    first, second = {usable[0]}, {usable[1]}
    return (second, first) if number % 2 else (first, second)


def _steps_of_two_processes(
    sequences: int, cores: tuple[set[int], set[int]]
) -> dict[str, list[tuple[float, int]]]:
    # NOTE: a process each, as CPython specializes vLLM's code for the one scheduler class that it sees.
    schedulers = {"ours": _SCHEDULER, "stock": None}
    with contextlib.ExitStack() as stack:
        processes = {
            name: stack.enter_context(_process(sequences, scheduler, own))
            for (name, scheduler), own in zip(schedulers.items(), cores, strict=True)
        }
        steps: dict[str, list[tuple[float, int]]] = {name: [] for name in processes}
        # One step each in turns, as the machine's speed changes from second to second.
        for number in range(_WARM_UP + _PAIRS):
            for name in sorted(processes, reverse=number % 2 == 1):
                steps[name].append(processes[name].submit(_step).result())
    return {name: taken[_WARM_UP:] for name, taken in steps.items()}


def _process(sequences: int, scheduler: str | None, cores: set[int]) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"), _start, (sequences, scheduler, cores))


def main(argv: Sequence[str] = ()) -> int:
    """Measure and print the times of both schedulers."""
    measure(ProgressReporter(quiet=False))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
