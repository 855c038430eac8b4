"""The gate: what it lets in, what it stamps, and that nothing stays reserved."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.billing.prices import Price
from adapters.models import EngineAdapter, Key, Role, Tenant, Version, VersionState
from adapters.tenant_settings import TenantSettings
from sampling.endpoints import Endpoint
from sampling.errors import LimitExceeded
from sampling.limits import Limits
from sampling.repetition_detector import RepetitionCount, RepetitionDetector, Thresholds
from sampling.resolution import Resolved
from server.admission import Admission
from server.admission.errors import NeverFits, TooManyConcurrent
from server.errors import EngineUnavailable, LoragateError
from server.fairness.shares import STAMP_KEY, Capacity
from server.request.context import Caller, RequestContext, ShadowTarget, Target
from server.request.gate import REPETITION_KEY, Gate
from server.request.metering import Progress

NOW = datetime.now(UTC)
ADAPTER = EngineAdapter(7, "acme/support@1#abc", Path("/x"))
VERSION = Version("acme", "support", 1, 7, VersionState.READY, "", NOW)
BASE = Target("base", None)
SUPPORT = Target("acme-support", VERSION)


@dataclass
class FakeEngine:
    """Yields `tokens` outputs of one token each, and remembers what it was asked."""

    tokens: int = 3
    errored: bool = False
    calls: list[dict[str, Any]] = field(default_factory=list)
    closed: int = 0
    hang: bool = False
    circle: int | None = None  # token ids repeat after so many

    def generate(self, prompt: Any, params: Any, request_id: str, **rest: Any) -> AsyncGenerator[Any]:
        self.calls.append({"prompt": prompt, "params": params, "id": request_id, **rest})
        return self._stream(prompt)

    async def _stream(self, prompt: Any) -> AsyncGenerator[Any]:
        try:
            for index in range(self.tokens):
                last = index == self.tokens - 1
                token_id = index % self.circle if self.circle else index
                yield SimpleNamespace(
                    prompt_token_ids=prompt["prompt_token_ids"],
                    num_cached_tokens=1,
                    outputs=[
                        SimpleNamespace(index=0, token_ids=[token_id], finish_reason="stop" if last else None)
                    ],
                    metrics=None,
                    prompt_logprobs=None,
                )
                if self.hang:
                    await asyncio.Event().wait()
        finally:
            self.closed += 1

    async def abort(self, request_id: str) -> None:
        self.calls.append({"abort": request_id})


def params(max_tokens: int = 8, n: int = 1, *, kind: str = "DELTA") -> Any:
    kind_of_output = SimpleNamespace(name=kind)
    return SimpleNamespace(
        max_tokens=max_tokens,
        n=n,
        extra_args={"smuggled": 1},
        output_kind=kind_of_output,
        logprobs=None,
        prompt_logprobs=None,
        logprob_token_ids=None,
    )


def context(
    target: Target = BASE,
    policy: TenantSettings | None = None,
    *,
    named: bool = True,
    repetition: str = "off",
) -> RequestContext:
    key = Key("k", "acme", Role.INFERENCE, "lg-", "0", None, None, None, NOW)
    caller = Caller(key, Tenant("acme"))
    sampling = Resolved({}, {"max_tokens": "request"} if named else {}, (), repetition=repetition)
    return RequestContext(
        "r",
        Endpoint.CHAT,
        caller,
        target,
        sampling,
        policy or TenantSettings(),
        "salt",
        held=ADAPTER if target.version else None,
    )


@pytest.fixture
def admission() -> Admission:
    return Admission(Capacity(kv_blocks=10, block_size_tokens=16, max_num_seqs=4))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def gate(admission: Admission, engine: FakeEngine) -> Gate:
    gate = Gate(admission)
    gate.attach(engine)
    return gate


PROMPT = {"type": "token", "prompt_token_ids": [1, 2, 3, 4], "cache_salt": "the caller's"}


async def read(gate: Gate, at: RequestContext, **kwargs: Any) -> None:
    async with gate.admit(at):
        async for _ in gate.generate(PROMPT, kwargs.pop("params", params()), "id", **kwargs):
            pass


async def test_counts_and_settles(gate: Gate, admission: Admission) -> None:
    at = context(policy=TenantSettings(tpm=100))
    await read(gate, at)
    assert (at.usage.prompt_tokens, at.usage.cached_tokens, at.usage.generated_tokens) == (4, 1, 3)
    assert at.usage.finish_reasons == ["stop"]
    assert admission.reserved_tokens("acme") == 0
    assert admission.headers("acme", at.tenant_settings)["x-ratelimit-remaining-tokens"] == str(100 - 7)


@pytest.mark.parametrize(
    ("circle", "is_split", "looped"), [(7, True, True), (7, False, False), (None, True, False)]
)
async def test_repetition_of_a_split_adapter_is_counted(
    gate: Gate, engine: FakeEngine, circle: int | None, is_split: bool, looped: bool
) -> None:
    engine.tokens, engine.circle = 90, circle
    at = context(replace(SUPPORT, is_split=is_split))
    await read(gate, at, lora_request=SimpleNamespace(lora_name=ADAPTER.engine_name), params=params(90))
    assert at.usage.answers_looped == looped
    assert at.usage.generated_tokens == 90, "it is counted, not cut off"


async def test_stamps_what_the_server_knows_and_drops_what_a_caller_sent(
    gate: Gate, engine: FakeEngine
) -> None:
    smuggled = {"priority": -5, "data_parallel_rank": 1, "session_id": "s", "kv_hints": object()}
    await read(gate, context(), trace_headers={"traceparent": "t"}, **smuggled)
    (call,) = engine.calls
    assert call["prompt"]["cache_salt"] == "salt"
    assert call["params"].extra_args.keys() == {STAMP_KEY}
    assert call["params"].extra_args[STAMP_KEY]["tenant"] == "acme"
    assert call["trace_headers"] == {"traceparent": "t"}
    assert not smuggled.keys() & call.keys()


async def test_the_servers_own_work_is_stamped_as_background_and_takes_no_rate(
    gate: Gate, engine: FakeEngine, admission: Admission
) -> None:
    busy = context(policy=TenantSettings(max_concurrency=1, rpm=1))
    for background in (True, False, True):
        async with gate.admit(replace(busy, background=background)):
            stream = gate.generate({"prompt_token_ids": [1]}, params(), "r", priority=-1)
            assert [output async for output in stream]
    stamps = [call["params"].extra_args[STAMP_KEY].get("background", False) for call in engine.calls]
    assert stamps == [True, False, True]
    assert all("priority" not in call for call in engine.calls), "nothing of it can be asked for"
    assert admission.accounts["acme"].requests.total(0) <= 1


async def test_the_servers_own_work_reserves_for_its_tenant_every_token_at_its_price(
    gate: Gate, admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved: list[Any] = []
    true_reserve = admission.reserve_background

    def reserve(tenant: str, settings: TenantSettings, **need: Any) -> Any:
        reserved.append((tenant, settings, need))
        return true_reserve(tenant, settings, **need)

    monkeypatch.setattr(admission, "reserve_background", reserve)
    price = Price(3, 2, 1)
    own = replace(context(policy=TenantSettings(rpm=1)), background=True, price=price)
    await read(gate, own, params=params(max_tokens=3, n=2))
    assert reserved == [
        ("acme", own.tenant_settings, {"prompt_tokens": 4, "max_tokens": 6, "price": price}),
    ]


class Copied:
    """Remembers the outputs of an answer that is compared with a copy's."""

    def __init__(self) -> None:
        self.outputs: list[Any] = []
        self.times: list[float] = []
        self.ended = 0

    def add(self, output: Any, now: float) -> None:
        self.outputs.append(output)
        self.times.append(now)

    def end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("has_shadow", [True, False])
async def test_an_answer_is_compared_with_a_copy_only_where_its_target_has_a_shadow(
    gate: Gate, has_shadow: bool
) -> None:
    copied, asked = Copied(), []
    gate.shadow = lambda *request: asked.append(request) or copied  # type: ignore[func-returns-value]
    shadow = ShadowTarget(VERSION, 1.0, "")
    at, wanted = context(replace(BASE, shadow=shadow if has_shadow else None)), params()
    began = time.monotonic()
    await read(gate, at, params=wanted)
    assert asked == ([(at, PROMPT, wanted)] if has_shadow else [])
    assert len(copied.outputs) == (3 if has_shadow else 0) and copied.ended == has_shadow
    assert all(output.outputs for output in copied.outputs)
    assert all(began <= at_s <= time.monotonic() for at_s in copied.times)


async def test_refuses_before_the_first_byte(gate: Gate, engine: FakeEngine) -> None:
    policy = TenantSettings(max_concurrency=1)
    async with gate.admit(context(policy=policy)):
        gate.generate(PROMPT, params(), "id")
        with pytest.raises(TooManyConcurrent):
            gate.generate(PROMPT, params(), "id2")
    assert len(engine.calls) == 1
    await read(gate, context(policy=policy))


async def test_never_fits_is_told_at_once(gate: Gate, engine: FakeEngine) -> None:
    async with gate.admit(context(policy=TenantSettings(kv_limit=0.1))):
        with pytest.raises(NeverFits):
            gate.generate(PROMPT, params(max_tokens=100), "id")
    assert engine.calls == []


async def test_an_unnamed_length_is_what_the_tenant_can_have(gate: Gate, engine: FakeEngine) -> None:
    asked = params(max_tokens=4000)
    await read(gate, context(policy=TenantSettings(kv_limit=0.2), named=False), params=asked)
    assert asked.max_tokens == 2 * 16 - 4 + 1


async def test_only_the_held_adapter(gate: Gate) -> None:
    other = SimpleNamespace(lora_name="globex/tools@1#def")
    for target, asked in ((BASE, other), (SUPPORT, None), (SUPPORT, other)):
        async with gate.admit(context(target)):
            with pytest.raises(LoragateError, match="does not hold"):
                gate.generate(PROMPT, params(), "id", lora_request=asked)
    await read(gate, context(SUPPORT), lora_request=SimpleNamespace(lora_name=ADAPTER.engine_name))


async def test_no_request_no_tokens(gate: Gate) -> None:
    with pytest.raises(LoragateError, match="outside"):
        gate.generate(PROMPT, params(), "id")


@pytest.mark.parametrize("dead", ["detached", "errored"])
async def test_without_an_engine(gate: Gate, engine: FakeEngine, dead: str) -> None:
    engine.errored = True
    if dead == "detached":
        gate.detach()
    async with gate.admit(context()):
        with pytest.raises(EngineUnavailable):
            gate.generate(PROMPT, params(), "id")
    if dead == "detached":
        with pytest.raises(EngineUnavailable):
            _ = gate.model_config


async def test_a_stream_nobody_reads_is_settled(gate: Gate, admission: Admission) -> None:
    async with gate.admit(context()):
        gate.generate(PROMPT, params(), "id")
        assert admission.reserved_tokens("acme") > 0
    assert admission.reserved_tokens("acme") == 0


async def test_a_stream_left_early_is_closed_in_the_engine(
    gate: Gate, engine: FakeEngine, admission: Admission
) -> None:
    async with gate.admit(context()), aclosing(gate.generate(PROMPT, params(), "id")) as stream:
        await anext(stream)
    assert engine.closed == 1
    assert admission.reserved_tokens("acme") == 0


async def test_cancellation_closes_and_settles(gate: Gate, engine: FakeEngine, admission: Admission) -> None:
    engine.hang = True
    task = asyncio.create_task(read(gate, context()))
    while not engine.calls:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.closed == 1
    assert admission.reserved_tokens("acme") == 0


async def test_a_stream_that_another_task_still_reads_is_aborted(
    gate: Gate, engine: FakeEngine, admission: Admission
) -> None:
    engine.hang = True

    async def drain(stream: Any) -> None:
        async for _ in stream:
            pass

    async with gate.admit(context()):
        reader = asyncio.create_task(drain(gate.generate(PROMPT, params(), "left")))
        await asyncio.sleep(0.01)
    (called,) = [call["id"] for call in engine.calls if "id" in call]
    assert {"abort": called} in engine.calls
    assert admission.reserved_tokens("acme") == 0
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)


async def test_two_requests_at_once_keep_their_contexts(gate: Gate, engine: FakeEngine) -> None:
    one = context()
    two = replace(context(), cache_salt="other")
    await asyncio.gather(read(gate, one), read(gate, two))
    assert {call["prompt"]["cache_salt"] for call in engine.calls} == {"salt", "other"}


async def test_a_request_with_one_generation_has_an_only_stream(gate: Gate, engine: FakeEngine) -> None:
    async with gate.admit(context()):
        assert gate.only_stream() is None
        gate.generate(PROMPT, params(), "id")
        only = gate.only_stream()
        assert only is not None and only.engine_id.startswith("id-")
        gate.generate(PROMPT, params(), "id")
        assert gate.only_stream() is None


async def test_an_id_that_two_callers_share_is_two_ids_in_the_engine(gate: Gate, engine: FakeEngine) -> None:
    """`AsyncLLM.abort(id)` ends every request of that id."""
    await asyncio.gather(read(gate, context()), read(gate, context()))
    ids = [call["id"] for call in engine.calls]
    assert len(set(ids)) == 2 and len({engine_id.rpartition("-")[0] for engine_id in ids}) == 1


@pytest.mark.parametrize(("repetition", "counted"), [("off", 0), ("stop", 0), ("adjust", 1)])
async def test_steered_answers_are_counted_for_those_who_asked(
    gate: Gate, engine: FakeEngine, repetition: str, counted: int
) -> None:
    made: list[RepetitionCount] = []

    def count() -> RepetitionCount:
        made.append(
            RepetitionCount(
                lambda: RepetitionDetector(Thresholds(ngram_tokens=1, window_tokens=2)),
                lambda d: d.closeness > 0.5,
            )
        )
        return made[-1]

    gate.attach(engine, count_steered=count)
    engine.tokens, engine.circle = 8, 1
    at = context(repetition=repetition)
    await read(gate, at)
    assert at.usage.answers_steered == counted
    assert len(made) == counted, "who did not ask costs nothing"


class WholeEngine:
    """Generates a token whenever it is told to, shows none before the last, and forgets an answer that it aborts."""

    errored = False

    def __init__(self) -> None:
        self.tokens: int | None = 0
        self.dead = False
        self.whole = asyncio.Event()

    async def generate(self, prompt: Any, params: Any, request_id: str, **rest: Any) -> AsyncGenerator[Any]:
        try:
            await self.whole.wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.tokens = None
            raise
        if self.dead:
            raise RuntimeError("the engine is dead")
        answer = SimpleNamespace(index=0, token_ids=list(range(self.tokens or 0)), finish_reason="stop")
        self.tokens = None
        yield SimpleNamespace(
            prompt_token_ids=prompt["prompt_token_ids"],
            num_cached_tokens=1,
            outputs=[answer],
            metrics=None,
            prompt_logprobs=None,
        )

    def progress(self, request_id: str) -> Progress | None:
        return Progress(4, 1, self.tokens, None) if self.tokens else None


@pytest.mark.parametrize("ended", ["whole", "cancelled", "the engine dies"])
async def test_a_whole_answer_is_counted_while_it_grows(admission: Admission, ended: str) -> None:
    engine, gate = WholeEngine(), Gate(admission)
    gate.attach(engine, progress=engine.progress)
    at = context(policy=TenantSettings(tpm=100))
    task = asyncio.create_task(read(gate, at, params=params(kind="FINAL_ONLY")))
    await asyncio.sleep(0.01)
    at.usage.refresh()
    assert (at.usage.prompt_tokens, at.usage.generated_tokens) == (0, 0), "it waits for its first token"
    engine.tokens = 2
    at.usage.refresh()
    at.usage.refresh()
    assert (at.usage.prompt_tokens, at.usage.cached_tokens, at.usage.generated_tokens) == (4, 1, 2)
    engine.tokens = 5
    if ended == "cancelled":
        task.cancel()
    elif ended == "the engine dies":
        engine.dead = True
    engine.whole.set()
    await asyncio.gather(task, return_exceptions=True)
    assert (at.usage.prompt_tokens, at.usage.cached_tokens, at.usage.generated_tokens) == (4, 1, 5)
    assert at.usage.finish_reasons == (["stop"] if ended == "whole" else [])
    assert admission.reserved_tokens("acme") == 0
    assert admission.headers("acme", at.tenant_settings)["x-ratelimit-remaining-tokens"] == str(100 - 9)


async def test_before_the_first_engine_everything_is_unavailable(
    admission: Admission, engine: FakeEngine
) -> None:
    gate = Gate(admission)
    async with gate.admit(context()):
        with pytest.raises(EngineUnavailable):
            gate.generate(PROMPT, params(), "id")
    with pytest.raises(EngineUnavailable):
        _ = gate.hang
    gate.attach(engine)
    assert gate.hang is engine.hang, "the rest of the client is the engine's"


@pytest.mark.parametrize("longest", [3, 4])
async def test_the_operators_limit_on_the_prompt_holds(gate: Gate, longest: int) -> None:
    at = replace(context(), limits=Limits(prompt_tokens=longest))
    async with gate.admit(at):
        if longest < len(PROMPT["prompt_token_ids"]):
            with pytest.raises(LimitExceeded):
                gate.generate(PROMPT, params(), "id")
        else:
            gate.generate(PROMPT, params(), "id")


async def test_the_engine_gets_the_defaults_without_a_field_and_the_action_against_loops(
    gate: Gate, engine: FakeEngine
) -> None:
    at = context(repetition="stop")
    at.sampling.unplaced["min_p"] = 0.1
    await read(gate, at)
    (call,) = engine.calls
    assert call["params"].min_p == 0.1
    assert call["params"].extra_args[REPETITION_KEY] == "stop"


async def test_every_sequence_is_reserved(gate: Gate, admission: Admission, engine: FakeEngine) -> None:
    async with gate.admit(context(policy=TenantSettings(max_concurrency=2))):
        gate.generate(PROMPT, params(max_tokens=8, n=2), "id")
        assert admission.reserved_tokens("acme") == 4 + 2 * 8
        with pytest.raises(TooManyConcurrent):
            gate.generate(PROMPT, params(), "id")
    async with gate.admit(context(policy=TenantSettings(max_concurrency=2))):
        with pytest.raises(NeverFits):
            gate.generate(PROMPT, params(n=3), "id")


@pytest.mark.parametrize(("tpm", "n", "expected"), [(34, 3, 10), (7, 3, 1), (5, 1, 1)])
async def test_an_unnamed_length_is_shared_by_the_sequences(
    gate: Gate, tpm: int, n: int, expected: int
) -> None:
    asked = params(max_tokens=4000, n=n)
    async with gate.admit(context(policy=TenantSettings(tpm=tpm), named=False)):
        gate.generate(PROMPT, asked, "id")
    assert asked.max_tokens == expected


async def test_a_prompt_without_room_for_one_token_is_refused(gate: Gate) -> None:
    async with gate.admit(context(policy=TenantSettings(tpm=4), named=False)):
        with pytest.raises(NeverFits, match="1 max_tokens = 5"):
            gate.generate(PROMPT, params(max_tokens=4000), "id")


@pytest.mark.parametrize("kind", ["FINAL_ONLY", "DELTA"])
async def test_progress_is_asked_for_whole_answers_by_the_engines_id(
    gate: Gate, engine: FakeEngine, kind: str
) -> None:
    asked: list[str] = []

    def progress(request_id: str) -> Progress | None:
        asked.append(request_id)
        return None

    gate.attach(engine, progress=progress)
    at = context()
    async with gate.admit(at):
        gate.generate(PROMPT, params(kind=kind), "id")
        at.usage.refresh()
        assert asked == ([engine.calls[0]["id"]] if kind == "FINAL_ONLY" else [])


async def test_without_progress_a_whole_answer_is_counted_when_it_ends(gate: Gate) -> None:
    at = context()
    async with gate.admit(at):
        stream = gate.generate(PROMPT, params(kind="FINAL_ONLY"), "id")
        at.usage.refresh()
        assert at.usage.generated_tokens == 0
        async for _ in stream:
            pass
    assert at.usage.generated_tokens == 3


async def test_log_probabilities_above_the_limit_are_refused_or_fitted(
    gate: Gate, engine: FakeEngine, admission: Admission
) -> None:
    def asked(max_tokens: int, **logprobs: Any) -> Any:
        wanted = params(max_tokens)
        for name, value in logprobs.items():
            setattr(wanted, name, value)
        return wanted

    limited = replace(context(), limits=Limits(logprobs=30, prompt_logprobs=12))
    await read(gate, limited, params=asked(10, logprobs=2, prompt_logprobs=2))
    for wrong in (
        asked(11, logprobs=2),
        asked(10, logprobs=0, logprob_token_ids=[1, 2, 3]),
        asked(1, logprobs=-1),
        asked(1, prompt_logprobs=3),
    ):
        with pytest.raises(LimitExceeded):
            await read(gate, limited, params=wrong)
    unnamed = replace(context(named=False), limits=Limits(logprobs=30))
    await read(gate, unnamed, params=asked(100, logprobs=2))
    assert engine.calls[-1]["params"].max_tokens == 10
    assert len(engine.calls) == 2 and admission.reserved_tokens("acme") == 0


async def test_the_prompts_of_one_request_do_not_start_in_one_turn_of_the_loop(gate: Gate) -> None:
    started: list[int] = []
    turn = 0

    class Counting(FakeEngine):
        async def _stream(self, prompt: Any) -> AsyncGenerator[Any]:
            started.append(turn)
            async for each in super()._stream(prompt):
                yield each

    gate.attach(Counting())
    async with gate.admit(context()):
        streams = [gate.generate(PROMPT, params(1), "id") for _ in range(40)]
        reading = [asyncio.ensure_future(anext(stream)) for stream in streams]
        while not all(task.done() for task in reading):
            turn += 1
            await asyncio.sleep(0)
        for stream in streams:
            await stream.aclose()
    assert len(started) == 40 and max(started.count(each) for each in set(started)) <= 8


class Grammars:
    """Prepares a grammar when it is told to, and counts those that are held."""

    def __init__(self, error: LoragateError | None = None) -> None:
        self.ready = asyncio.Event()
        self.asked: list[tuple[RequestContext, Any]] = []
        self.held = 0
        self._error = error

    @asynccontextmanager
    async def prepare(self, context: RequestContext, sampling_params: Any) -> AsyncGenerator[None]:
        self.asked.append((context, sampling_params))
        await self.ready.wait()
        if self._error is not None:
            raise self._error
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1


def formed(structured_outputs: object = "a schema") -> Any:
    made = params()
    made.structured_outputs = structured_outputs
    return made


async def settle_down() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_generation_with_a_form_waits_for_its_grammar(gate: Gate, engine: FakeEngine) -> None:
    grammars, at, form = Grammars(), context(), formed()
    gate.attach(engine, prepared=grammars.prepare)
    async with gate.admit(at):
        stream = gate.generate(PROMPT, form, "id")
        first = asyncio.ensure_future(anext(stream))
        await settle_down()
        assert not first.done() and engine.calls == [] and at.usage.has_form
        ((asker, asked_for),) = grammars.asked
        assert asker is at and asked_for.structured_outputs == "a schema"
        grammars.ready.set()
        assert (await first).outputs[0].token_ids == [0]
        assert [output.outputs[0].token_ids async for output in stream] == [[1], [2]]
        assert grammars.held == 1, "until the request ends"
    assert grammars.held == 0


async def test_a_generation_without_a_form_needs_no_grammar(gate: Gate, engine: FakeEngine) -> None:
    grammars, at = Grammars(), context()
    gate.attach(engine, prepared=grammars.prepare)
    await read(gate, at, params=formed(None))
    assert grammars.asked == [] and not at.usage.has_form and len(engine.calls) == 1


async def test_a_grammar_that_cannot_be_made_refuses_the_generation(
    gate: Gate, engine: FakeEngine, admission: Admission
) -> None:
    grammars = Grammars(EngineUnavailable())
    grammars.ready.set()
    gate.attach(engine, prepared=grammars.prepare)
    with pytest.raises(EngineUnavailable):
        await read(gate, context(), params=formed())
    assert engine.calls == [] and admission.reserved_tokens("acme") == 0


async def test_a_request_that_leaves_ends_its_preparation(gate: Gate, engine: FakeEngine) -> None:
    grammars, at = Grammars(), context()
    gate.attach(engine, prepared=grammars.prepare)
    before = asyncio.all_tasks()
    async with gate.admit(at):
        gate.generate(PROMPT, formed(), "id")
        await settle_down()
        assert len(grammars.asked) == 1
    assert asyncio.all_tasks() == before and engine.calls == [] and grammars.held == 0


async def test_a_request_is_ready_when_its_grammar_is(gate: Gate, engine: FakeEngine) -> None:
    grammars = Grammars()
    gate.attach(engine, prepared=grammars.prepare)
    async with gate.admit(context()):
        gate.generate(PROMPT, formed(), "id")
        ready = asyncio.ensure_future(gate.ready())
        await settle_down()
        assert not ready.done()
        grammars.ready.set()
        await ready


async def test_without_shadow_traffic_a_target_with_a_shadow_is_served_as_any_other(
    gate: Gate, engine: FakeEngine
) -> None:
    await read(gate, context(replace(BASE, shadow=ShadowTarget(VERSION, 1.0, ""))))
    assert engine.closed == 1
