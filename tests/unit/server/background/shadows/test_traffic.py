"""Shadow traffic: copies run in the background, after the answer, within their share, and leave only sums."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import Headers
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

import demo
from sampling.endpoints import Endpoint
from server.admission.errors import BudgetExhausted
from server.background.shadows import traffic as module
from server.background.shadows.answers import ShadowedAnswer, compare
from server.fairness.shares import STAMP_KEY, Capacity
from server.request.body import Body
from tests.unit.server.app.composed import Composed, compose

pytestmark = pytest.mark.slow  # a server for each test

ADAPTER = "/admin/v1/adapters/acme/support"


@dataclass
class FakeVllm:
    """Version 1 answers with three tokens, version 2 with its first two."""

    errored: bool = False
    asked: list[tuple[str, Any, Any]] = field(default_factory=list)
    pause: asyncio.Event = field(default_factory=asyncio.Event)
    same: bool = False
    """Whether version 2 answers as version 1."""

    async def generate(
        self, prompt: Any, params: Any, request_id: str, lora_request: Any = None
    ) -> AsyncGenerator[Any]:
        name = lora_request.lora_name
        self.asked.append((name, prompt, params))
        if "@2#" in name:
            await self.pause.wait()
        answer = [5, 6, 7] if self.same or "@1#" in name else [5, 6]
        sequence = SimpleNamespace(index=0, token_ids=answer, text="Hi.", finish_reason="stop")
        yield SimpleNamespace(
            prompt_token_ids=prompt["prompt_token_ids"],
            num_cached_tokens=0,
            outputs=[sequence],
            metrics=SimpleNamespace(scheduled_ts=0.5, queued_ts=0.4, first_token_ts=0.6),
            prompt_logprobs=None,
        )

    async def abort(self, request_id: str) -> None:
        return None

    def copies(self) -> list[tuple[str, Any, Any]]:
        return [each for each in self.asked if "@2#" in each[0]]


class Requests(defaultdict[str, Any]):
    def __missing__(self, name: str) -> Any:
        return SimpleNamespace(lora_name=name)


@pytest.fixture
def vllm() -> FakeVllm:
    fake = FakeVllm()
    fake.pause.set()
    return fake


@pytest.fixture
async def composed(tmp_path: Path, vllm: FakeVllm) -> AsyncIterator[Composed]:
    async with compose(tmp_path) as composed:
        engine: Any = composed.server.engine.supervisor.engine
        type(engine).handlers = property(
            lambda self: SimpleNamespace(handle=self.handle, models=SimpleNamespace(lora_requests=Requests()))
        )
        composed.server.engine.gate.attach(vllm)
        composed.server.engine.admission.capacity = Capacity(10_000, 16, 8)
        body = {"source": str(demo.ADAPTERS["acme-support"].path)}
        for promote in (True, False):
            await composed.make("POST", f"{ADAPTER}/versions", json={**body, "promote": promote})
        yield composed


async def shadow(composed: Composed, share: float = 1.0, key: str | None = None) -> None:
    more = {"key": key} if key else {}
    answer = await composed.ask("PUT", f"{ADAPTER}/shadow", json={"version": 2, "share": share}, **more)
    assert answer.is_success, answer.text


async def ask(composed: Composed, model: str = "acme-support", **params: Any) -> list[int]:
    """One request of the tenant, as vLLM's handlers would make it."""
    server = composed.server
    caller = await server.authenticator.authenticate(Headers({"authorization": "Bearer demo-acme"}))
    body = Body({"model": model, "prompt": "x", "max_tokens": 8})
    context = await server.requests.prepare(caller, Endpoint.COMPLETIONS, body, Headers(), "r")
    version = context.target.version
    assert version is not None
    async with (
        server.engine.adapters.loading.hold(version) as held,
        server.engine.gate.admit(replace(context, held=held)),
    ):
        kind = RequestOutputKind.DELTA
        stream = server.engine.gate.generate(
            {"prompt_token_ids": [1, 2, 3]},
            SamplingParams(max_tokens=8, output_kind=kind, seed=3, **params),
            "r",
            lora_request=SimpleNamespace(lora_name=held.engine_name),
        )
        return [token async for output in stream for token in output.outputs[0].token_ids]


async def idle(composed: Composed) -> None:
    while composed.server.shadows._tasks:
        await asyncio.sleep(0.001)


async def test_both_answers_are_compared_and_only_sums_are_kept(composed: Composed, vllm: FakeVllm) -> None:
    await shadow(composed)
    for _ in range(3):
        assert await ask(composed) == [5, 6, 7]
    await idle(composed)
    await composed.server.shadows.flush()
    found = await composed.make("GET", f"{ADAPTER}/shadow")
    assert (found["version"], found["share"]) == (2, 1.0)
    figures = found["figures"]["1"]
    tokens, same = figures["answer_tokens"], figures["same_answer"]
    assert (tokens["count"], tokens["served"], tokens["shadow"], tokens["difference"]) == (3, 3.0, 2.0, -1.0)
    assert same["shadow"] == 0.0
    assert figures["same_beginning"]["shadow"] == pytest.approx(2 / 3, abs=1e-5)
    assert "calls_valid" not in figures


async def test_a_copy_is_background_has_the_options_of_the_request_and_another_cache(
    composed: Composed, vllm: FakeVllm
) -> None:
    await shadow(composed)
    await ask(composed)
    await idle(composed)
    (served, request, own), (copy, copied, params) = vllm.asked
    assert "@1#" in served and "@2#" in copy
    assert copied["prompt_token_ids"] == request["prompt_token_ids"]
    assert copied["cache_salt"] != request["cache_salt"]
    assert params.extra_args[STAMP_KEY]["background"] is True
    assert "background" not in own.extra_args[STAMP_KEY]
    assert (params.seed, params.max_tokens, params.output_kind) == (3, 8, RequestOutputKind.FINAL_ONLY)


async def test_a_slow_copy_delays_nothing_and_the_next_ones_are_dropped(
    composed: Composed, vllm: FakeVllm
) -> None:
    await shadow(composed)
    vllm.pause.clear()
    for _ in range(10):
        assert await ask(composed) == [5, 6, 7]
    await asyncio.sleep(0)
    assert len(composed.server.shadows._tasks) == module._PER_ADAPTER
    vllm.pause.set()
    await idle(composed)
    assert len(vllm.copies()) == module._PER_ADAPTER


async def test_a_copy_that_fails_is_nobodys_failure(
    composed: Composed, vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shadow(composed)
    own = await composed.make("POST", "/admin/v1/keys", json={"tenant": "acme", "role": "tenant_admin"})
    await shadow(composed, key=own["secret"])

    def spent(*arguments: Any) -> None:
        raise BudgetExhausted("spent", limit="token_budget", asked=1, used=1, allowed=1, retry_after_s=1)

    monkeypatch.setattr(composed.server.engine.admission, "check_budget_left", spent)
    assert await ask(composed) == [5, 6, 7]
    await idle(composed)
    assert vllm.copies() == []
    monkeypatch.undo()
    await ask(composed)
    await idle(composed)
    assert vllm.copies()[0][2].extra_args[STAMP_KEY]["tenant"] == "acme", "counted under who asked for it"


async def test_the_share_is_never_exceeded(composed: Composed, vllm: FakeVllm) -> None:
    await shadow(composed, 0.2)
    for asked in range(1, 41):
        await ask(composed)
        await idle(composed)
        assert len(vllm.copies()) <= 0.2 * asked
    assert vllm.copies()


async def test_what_gets_no_copy(composed: Composed, vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    await ask(composed)
    await shadow(composed)
    await ask(composed, "acme-support@1")
    await ask(composed, structured_outputs=StructuredOutputsParams(regex="a"))
    monkeypatch.setattr(module, "_MAX_PROMPT_TOKENS", 2)
    await ask(composed)
    monkeypatch.undo()
    await composed.make("POST", f"{ADAPTER}/promote", json={"version": 2})
    vllm.asked.clear()
    await ask(composed)
    assert len(vllm.asked) == 1, "the version serves now"
    await composed.make("POST", f"{ADAPTER}/promote", json={"version": 1})
    assert (await composed.make("DELETE", f"{ADAPTER}/shadow"))["version"] is None
    await ask(composed)
    await idle(composed)
    assert len(vllm.copies()) == 1 and len(vllm.asked) == 2


async def test_who_may_set_it_and_to_what(composed: Composed) -> None:
    made = await composed.make("POST", "/admin/v1/keys", json={"tenant": "globex", "role": "tenant_admin"})
    for method in ("GET", "PUT", "DELETE"):
        body = {"json": {"version": 2, "share": 0.1}} if method == "PUT" else {}
        assert (await composed.ask(method, f"{ADAPTER}/shadow", made["secret"], **body)).status_code == 404
    for version, share, status in ((9, 0.1, 404), (2, 0.0, 400), (2, 1.1, 400)):
        body = {"version": version, "share": share}
        assert (await composed.ask("PUT", f"{ADAPTER}/shadow", json=body)).status_code == status
    await shadow(composed, 0.5)
    audit = await composed.make("GET", "/admin/v1/audit?subject=acme-support")
    assert audit["data"][0]["action"] == "adapter.shadow"
    assert audit["data"][0]["details"] == {"version": 2, "share": 0.5, "caller": ""}


def answer(*token_ids: int, text: str = "", reason: str = "stop") -> ShadowedAnswer:
    return ShadowedAnswer(list(token_ids), [text], reason)


CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


def test_what_is_compared_of_two_answers() -> None:
    found = compare(
        answer(1, 2, 3, 4, text=CALL), answer(1, 2, text="<tool_call>{</tool_call>", reason="length")
    )
    assert found["ends"] == (1.0, 0.0) and found["cut_off"] == (0.0, 1.0)
    assert found["calls"] == (1.0, 1.0) and found["calls_valid"] == (1.0, 0.0)
    assert found["answer_tokens"] == (4.0, 2.0)
    assert found["same_beginning"] == (1.0, 0.5) and found["same_answer"] == (1.0, 0.0)
    assert "seconds" not in found, "the engine did not say"
    looping = compare(answer(1), answer(*[4, 5] * 20, reason="repetition"))
    assert looping["loops"] == (0.0, 1.0) and looping["empty"] == (1.0, 0.0)
    assert "calls_valid" not in looping
