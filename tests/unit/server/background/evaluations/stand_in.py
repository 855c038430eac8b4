"""A stand-in for vLLM behind the real gate, registry and scheduler's stamps, and evaluations over the admin API."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import demo
from adapters.training.evaluation import held_out
from adapters.training.evaluation.held_out import Rendering
from tests.unit.server.app.composed import Composed

ADAPTER = "/admin/v1/adapters/acme/support"
OCTETS = {"content-type": "application/octet-stream"}
RENDERING = Rendering(demo.MODEL_DIR, "<|im_end|>")


def chats(*answers: str) -> bytes:
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"Question {number}"},
                {"role": "assistant", "content": answer},
            ]
        }
        for number, answer in enumerate(answers)
    ]
    return b"\n".join(json.dumps(line).encode() for line in lines)


CHATS = chats(*(f"Answer {number}." for number in range(20)))


@dataclass
class FakeVllm:
    """Version 1 answers as expected, every other one with its first token; each token costs 0.5 nats."""

    errored: bool = False
    asked: list[Any] = field(default_factory=list)
    known: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)
    pause: asyncio.Event = field(default_factory=asyncio.Event)
    pauses_after: int = 0  # requests; 0: never

    def __post_init__(self) -> None:
        self.pause.set()

    @classmethod
    def with_answers(cls) -> FakeVllm:
        """One that knows the expected answers of CHATS."""
        turns = held_out.read_turns(CHATS, 1, RENDERING).turns
        return cls(known={turn.prompt: turn.target for turn in turns})

    async def generate(
        self, prompt: Any, params: Any, request_id: str, lora_request: Any = None
    ) -> AsyncGenerator[Any]:
        self.asked.append((prompt, params, lora_request))
        if self.pauses_after and len(self.asked) > self.pauses_after:
            self.pause.clear()
        await self.pause.wait()
        ids = prompt["prompt_token_ids"]
        answer, rows = self.known.get(tuple(ids), (7,)), None
        if params.prompt_logprobs is not None:
            rows = [None, *({token: SimpleNamespace(logprob=-0.5)} for token in ids[1:])]
        if "@1#" not in lora_request.lora_name:
            answer = answer[:1]
        yield SimpleNamespace(
            prompt_token_ids=ids,
            num_cached_tokens=0,
            outputs=[
                SimpleNamespace(index=0, token_ids=list(answer[: params.max_tokens]), finish_reason="stop")
            ],
            metrics=None,
            prompt_logprobs=rows,
        )

    async def abort(self, request_id: str) -> None:
        return None


class InlineWorkers:
    """Runs the tasks of worker processes here."""

    async def run(self, tenant: str, limits: Any, task: Callable[..., Any], *arguments: Any) -> Any:
        return task(*arguments)


def attach(composed: Composed, vllm: FakeVllm) -> None:
    class Requests(defaultdict[str, Any]):
        def __missing__(self, name: str) -> Any:
            return SimpleNamespace(lora_name=name)

    engine: Any = composed.server.engine.supervisor.engine
    engine.prompts = InlineWorkers()
    type(engine).handlers = property(
        lambda self: SimpleNamespace(handle=self.handle, models=SimpleNamespace(lora_requests=Requests()))
    )
    composed.server.engine.gate.attach(vllm)
    composed.server.engine.admission.capacity = type(composed.server.engine.admission.capacity)(10_000, 16, 8)


async def begin(composed: Composed, number: int, data: bytes = CHATS, **params: Any) -> dict[str, Any]:
    path = f"{ADAPTER}/versions/{number}/evaluations"
    found: dict[str, Any] = await composed.make("POST", path, content=data, params=params, headers=OCTETS)
    return found


async def ended(composed: Composed, evaluation: dict[str, Any]) -> dict[str, Any]:
    while evaluation["state"] == "running":
        await asyncio.sleep(0.005)
        evaluation = await composed.make("GET", f"{ADAPTER}/evaluations/{evaluation['id']}")
    return evaluation
