"""The worker processes for large prompts: one pool per engine, shared out fairly between tenants.

Leans on (vLLM 0.32): VllmConfig (picklable), ModelConfig.hf_config, BaseRenderer.mm_processor.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from vllm.config import VllmConfig

from sampling.endpoints import Endpoint
from sampling.limits import Limits
from server.engine.rendering import prompt_worker_tasks as tasks
from server.engine.rendering.prompt import RenderedPrompt
from server.engine.workers.errors import WorkerDied, WorkRefused, WorkTimedOut
from server.engine.workers.pool import WorkerPool
from server.errors import EngineUnavailable, InternalError, InvalidRequest, TooManyLargeRequests
from server.request.body import Body, has_few_values, parse

logger = logging.getLogger("loragate.engine")

Result = TypeVar("Result")
#: Where the operator lifts the limit `render_s`.
_NO_LIMIT_S = 3600.0
#: JSON values of a large body that is rendered in the API process.
_VALUES_HERE = 4096


class PromptWorkers:
    """Reads, renders and tokenizes large bodies outside of the event loop; one instance per running engine."""

    def __init__(
        self, config: VllmConfig, arguments: argparse.Namespace, wrap: tasks.Wrap | None = None
    ) -> None:
        """
        Args:
            config, arguments: of the engine and of its handlers; each worker makes its own handlers of them.
            wrap: what was done to the engine's renderer, too, so that both render the same; picklable.
        """
        self._pool = WorkerPool(partial(tasks.setup, config, arguments, wrap), name="loragate prompt worker")
        # Pictures fill caches that the engine shares with the API process; gpt-oss has no template.
        self._has_template = config.model_config.hf_config.model_type != "gpt_oss"
        self._reads_media = config.model_config.supports_multimodal_inputs
        self._starting: asyncio.Task[None] | None = None
        self._closed = False
        self._failed = False

    def start(self) -> None:
        """Start the first workers; returns at once."""
        self._starting = asyncio.create_task(self._start(), name="prompt-workers")

    async def close(self) -> None:
        """End all workers."""
        self._closed = True
        if self._starting is not None:
            await self._starting
        await self._pool.close()

    async def read(self, tenant: str, endpoint: Endpoint, raw: bytes, limits: Limits) -> Body:
        """Parse a large body and check it; it has no prompt where a worker can render that. Raises: LoragateError."""
        read = tasks.read_text_body if self._reads_media else tasks.read_body
        fields = await self._run(tenant, limits, read, raw, endpoint, limits)
        if fields is not None and self._has_template:
            return Body(fields, raw)
        if not has_few_values(raw, _VALUES_HERE):
            raise InvalidRequest(
                f"A prompt with pictures, sounds or files, and any prompt of gpt-oss, may have {_VALUES_HERE} JSON "
                "values; this one has more. Send fewer messages.",
                code="request_too_large",
            )
        return Body(parse(raw))

    async def render(
        self, tenant: str, endpoint: Endpoint, raw: bytes, lean: dict[str, Any], limits: Limits
    ) -> RenderedPrompt:
        """Render the prompt of a large body with the options of `lean`. Raises: LoragateError."""
        return await self._run(tenant, limits, tasks.render, raw, endpoint, lean, limits)

    async def split(self, tenant: str, raw: bytes, limits: Limits) -> list[bytes]:
        """The bodies of the chats of a large batch. Raises: LoragateError."""
        return await self._run(tenant, limits, tasks.split_batch, raw, limits)

    async def tokenize(self, tenant: str, raw: bytes, limits: Limits) -> tuple[Any, bytes, int]:
        """The model asked for, the JSON of /tokenize's answer, its number of tokens. Raises: LoragateError."""
        return await self._run(tenant, limits, tasks.tokenize, raw, limits)

    async def detokenize(self, tenant: str, raw: bytes, limits: Limits) -> tuple[Any, bytes, int]:
        """The model asked for, the JSON of /detokenize's answer, the number of tokens sent. Raises: LoragateError."""
        return await self._run(tenant, limits, tasks.detokenize, raw, limits)

    async def count_tokens(self, tenant: str, raw: bytes, limits: Limits) -> tuple[Any, bytes, int]:
        """The model asked for, the JSON of the count of a prompt, the count. Raises: LoragateError."""
        return await self._run(tenant, limits, tasks.count_tokens, raw, limits)

    async def run(self, tenant: str, limits: Limits, task: Callable[..., Result], *arguments: Any) -> Result:
        """Run a picklable function of a module for this tenant. Raises: LoragateError; what the task raises."""
        return await self._run(tenant, limits, task, *arguments)

    async def _start(self) -> None:
        try:
            await self._pool.start()
        except WorkerDied:
            self._failed = True
            logger.error("No worker for large prompts can be started; requests with one fail.")

    async def _run(self, tenant: str, limits: Limits, task: Callable[..., Result], *arguments: Any) -> Result:
        try:
            return await self._pool.run(tenant, task, *arguments, limit_s=limits.render_s or _NO_LIMIT_S)
        except WorkRefused as error:
            raise TooManyLargeRequests(
                f"{error.waiting} large requests of your tenant wait to be read, the most that may. Wait and send "
                "it again."
            ) from error
        except WorkTimedOut as error:
            raise InvalidRequest(
                f"The request was not read within {error.limit_s:g} s (limit 'render_s'). Send less text.",
                code="request_too_large",
            ) from error
        except WorkerDied as error:
            if self._closed:
                raise EngineUnavailable from error
            if self._failed:
                raise InternalError from error
            raise InvalidRequest(
                f"Reading the request needed more than {error.memory_bytes >> 20} MiB of memory. Send less.",
                code="request_too_large",
            ) from error
