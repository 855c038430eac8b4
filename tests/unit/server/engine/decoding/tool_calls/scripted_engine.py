"""vLLM's handlers with an engine that writes what a test says: all of vLLM but EngineCore is real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from vllm.renderers.registry import renderer_from_config
from vllm.sampling_params import SamplingParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
from vllm.v1.engine.parallel_sampling import ParentRequest

from sampling.endpoints import Endpoint
from server.config.settings import Settings
from server.engine.args import engine_args, frontend_args
from server.engine.handlers import VllmHandlers
from server.engine.rendering.streams.direct import DirectStream
from server.engine.rendering.streams.stream_events import public_events


@dataclass
class Script:
    """What the model writes next, and in which steps."""

    texts: list[str]
    """One for each of the request's samples."""
    steps: list[int] = field(default_factory=lambda: [1])
    """Tokens of each step; the last value repeats."""
    stream_interval: int = 1


class ScriptedEngine:
    """Stands where the handlers expect the engine: scripted tokens, which pass vLLM's own output processor."""

    errored = False
    input_processor = None

    def __init__(self, settings: Settings) -> None:
        arguments = engine_args(settings)
        self.vllm_config = arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
        self.model_config = self.vllm_config.model_config
        self.renderer = renderer_from_config(self.vllm_config)
        self.tokenizer = self.renderer.get_tokenizer()
        self.frontend = frontend_args(settings, arguments)
        self.script = Script([""])
        self.prompt = ""
        self.params = SamplingParams()

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    def check_admission(self, n: int) -> None:
        pass

    async def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **_: Any
    ) -> AsyncGenerator[Any]:
        self.prompt, self.params = prompt["prompt"], sampling_params
        processor = OutputProcessor(
            self.tokenizer, log_stats=False, stream_interval=self.script.stream_interval
        )
        request = EngineCoreRequest(
            request_id, prompt["prompt_token_ids"], None, sampling_params, None, 0.0, None, None, None
        )
        request.external_req_id = request_id
        queue = RequestOutputCollector(sampling_params.output_kind, request_id)
        parent = ParentRequest(request) if sampling_params.n > 1 else None
        running = {}
        for index in range(sampling_params.n):
            child = copy(request)
            if parent is not None:
                child.request_id, child.sampling_params = parent.get_child_info(index)
            processor.add_request(child, prompt["prompt"], parent, index, queue)
            running[child.request_id] = self._outputs(child.request_id, self.script.texts[index])
        writing = asyncio.create_task(self._write(processor, running))
        finished = False
        while not finished:
            output = queue.get_nowait() or await queue.get()
            finished = output.finished
            yield output
        await writing

    async def _write(self, processor: OutputProcessor, running: dict[str, Any]) -> None:
        while running:
            for name in list(running):
                output = next(running[name])
                done = processor.process_outputs([output])
                if output.finish_reason is not None or done.reqs_to_abort:
                    del running[name]
            await asyncio.sleep(0)

    def _outputs(self, name: str, text: str) -> Any:
        """The steps of one sample, cut at `max_tokens` as the scheduler cuts them."""
        ids = [*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]
        most = self.params.max_tokens or len(ids)
        reason = FinishReason.STOP if most >= len(ids) else FinishReason.LENGTH
        ids = ids[:most]
        steps = iter(self.script.steps)
        step = 1
        while ids:
            step = next(steps, step)
            now, ids = ids[:step], ids[step:]
            yield EngineCoreOutput(name, now, finish_reason=None if ids else reason)


class Rig:
    """The handlers on a scripted engine."""

    def __init__(self, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self.engine = ScriptedEngine(Settings(**(settings or {"demo": True})))
        gate: Any = self.engine
        self.handlers = self._loop.run_until_complete(VllmHandlers.build(gate, self.engine.frontend))

    def whole(self, endpoint: Endpoint, body: dict[str, Any], script: Script) -> dict[str, Any]:
        """The whole answer, as JSON."""
        self.engine.script = script
        result = self._loop.run_until_complete(self.handlers.serve(endpoint, body))
        found: dict[str, Any] = result.model_dump(
            mode="json", by_alias=True, exclude_none=endpoint is Endpoint.MESSAGES
        )
        return found

    def stream(self, endpoint: Endpoint, body: dict[str, Any], script: Script) -> list[dict[str, Any]]:
        """The events of the stream, as JSON, without `[DONE]`."""
        self.engine.script = script

        async def read() -> list[str]:
            stream = await self.handlers.serve(endpoint, body | {"stream": True})
            if isinstance(stream, DirectStream):
                texts = [text async for text in stream.events(stream.writer("a", null_usage=False))]
                return [f"{event}\n\n" for text in texts for event in text.split("\n\n")[:-1]]
            return [event async for event in public_events(stream, "a", "a", with_usage=False)]

        events = self._loop.run_until_complete(read())
        lines = [event.partition("data: ")[2].strip() for event in events]
        return [json.loads(line) for line in lines if line != "[DONE]"]
