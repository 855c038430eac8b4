"""An engine without the server, to measure the scheduler alone.

Leans on (vLLM 0.32): vllm.engine.arg_utils.AsyncEngineArgs, vllm.v1.engine.async_llm.AsyncLLM, vllm.sampling_params.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from adapters.tenant_settings import TenantSettings
from server.engine.args import SCHEDULER
from server.engine.scheduling import engine_capacity, scheduler_report
from server.fairness.shares import STAMP_KEY, Capacity, stamp


class BenchEngine:
    """A running engine; `stop` ends it. The constructor blocks while the model loads (tens of seconds).

    Args:
        model: folder of the base model.
        fair: whether to use our scheduler instead of vLLM's own.
        options: further engine arguments of vLLM.
    """

    def __init__(self, model: Path, *, fair: bool, **options: Any) -> None:
        self.fair = fair
        self._ids = itertools.count()
        arguments = {"dtype": "float32", "enforce_eager": True, "seed": 0, **options}
        if fair:
            arguments["scheduler_cls"] = SCHEDULER
        self._client = AsyncLLM.from_engine_args(AsyncEngineArgs(model=str(model), **arguments))

    @property
    def capacity(self) -> Capacity:
        """The KV blocks and sequence slots that requests can use."""
        return engine_capacity.capacity_of(self._client)

    async def generate(
        self,
        tenant: str,
        settings: TenantSettings,
        prompt: Sequence[int],
        tokens: int,
        *,
        background: bool = False,
    ) -> AsyncGenerator[int]:
        """Generate exactly `tokens` greedy tokens; yields the number of new tokens of each output."""
        params = SamplingParams(
            temperature=0.0,
            max_tokens=tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={STAMP_KEY: stamp(tenant, settings, background=background)},
        )
        request: Any = {"prompt_token_ids": list(prompt), "cache_salt": tenant}
        async for output in self._client.generate(request, params, f"{tenant}-{next(self._ids)}"):
            yield sum(len(sequence.token_ids) for sequence in output.outputs)

    async def report(self) -> dict[str, Any]:
        """See `server.engine.scheduling.scheduler_report`; only with our scheduler."""
        return await scheduler_report.read(self._client)

    def stop(self) -> None:
        """End the engine's processes."""
        self._client.shutdown()
