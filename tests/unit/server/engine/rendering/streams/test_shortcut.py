"""A stream whose deltas vLLM's output processor writes is the one that its handlers write, and is counted alike.

The real output processor detokenizes random tokens; `AsyncLLM.generate`, the meter, the writer and the sender of the
response are the real ones.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from copy import copy
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason, output_processor
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core_client import AsyncMPClient
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector, RequestState
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.metrics.stats import IterationStats

import demo
from server.api import responses
from server.api.responses import ResponseSender
from server.engine.rendering.output_collector import BoundedOutputCollector
from server.engine.rendering.streams import part_flusher, shortcut
from server.engine.rendering.streams.shortcut import DirectRequestState
from server.engine.rendering.streams.stream_events import public_events
from server.errors import LoragateError
from server.request.context import StreamAnswer, UsageCounters
from server.request.metering import MeteredStream, canary_loops
from tests.unit.server.engine.rendering.streams.vllm_handlers import (
    INTERNAL,
    NOW,
    PROMPT,
    PUBLIC,
    chat_stream,
    completion_stream,
    handler,
    install,
    null_usage,
    stream_options,
)

ENGINE_ID = "chatcmpl-1-engine"


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr("time.time", lambda: float(NOW))


@pytest.fixture(autouse=True)
def _untouched():
    yield
    vars(output_processor).update(RequestState=RequestState)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo.MODEL_DIR)


@dataclass
class Engine:
    """The front half of vLLM: what EngineCore would send comes from the test."""

    processor: OutputProcessor
    n: int
    stop: list[str] | None
    collector: type[RequestOutputCollector]
    aborted: list[str] = field(default_factory=list)
    outputs_queue: asyncio.Queue[int] = field(default_factory=asyncio.Queue)  # what waits of further steps

    def client(self):
        made = object.__new__(AsyncLLM)
        made.output_processor, made.engine_core, made.log_requests = self.processor, self, False
        made.add_request = self.add
        return made

    async def abort_requests_async(self, names):
        self.aborted += names

    def shutdown(self, timeout=None):
        """Called when the client is freed."""

    async def add(self, request_id, prompt, params, **others):
        queue = self.collector(params.output_kind, "parent" if self.n > 1 else "0")
        request = EngineCoreRequest(
            request_id=queue.request_id,
            external_req_id=ENGINE_ID,
            prompt_token_ids=PROMPT,
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=0.0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        parent = ParentRequest(request) if self.n > 1 else None
        for index in range(self.n):
            one = copy(request)
            if parent is not None:
                one.request_id, one.sampling_params = parent.get_child_info(index)
            self.processor.add_request(one, None, parent, index, queue)
        return queue

    def wait_with_further(self, is_behind):
        while not self.outputs_queue.empty():
            self.outputs_queue.get_nowait()
        if is_behind:
            self.outputs_queue.put_nowait(1)

    def step(self, outputs):
        """Process the outputs of one step of the engine."""
        name = "{}_parent" if self.n > 1 else "{}"
        made = [
            EngineCoreOutput(name.format(index), list(ids), finish_reason=reason, stop_reason=stop)
            for index, ids, reason, stop in outputs
        ]
        self.processor.process_outputs(made, 1.0, IterationStats())


@dataclass
class Client:
    """The connection of one client: `parts` are those that were written past `send`."""

    is_slow: bool = False
    body: list[bytes] = field(default_factory=list)
    parts: int = 0
    caught_up: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, message):
        while self.is_slow:
            self.caught_up.clear()
            await self.caught_up.wait()
        self.body.append(message.get("body", b""))

    def is_ready(self):
        return not self.is_slow

    def write(self, part):
        self.parts += 1
        self.body.append(part)

    def read(self, is_slow):
        self.is_slow = is_slow
        self.caught_up.set()


@dataclass(frozen=True)
class Run:
    """One generation: the steps of its engine, and when the event loop and the client get their turns."""

    n: int
    stop: list[str] | None
    steps: list
    turns: list[bool]
    slow: list[bool]
    failure: Exception | None
    behind: list[bool]
    """Whether outputs of further steps wait, after each step."""


@st.composite
def runs(draw, *, in_turn):
    """`in_turn`: the event loop has its turn after each step, and the client reads at once."""
    n = draw(st.integers(1, 3))
    open_sequences, steps = list(range(n)), []
    reasons = st.sampled_from([None] * 12 + list(FinishReason))
    while open_sequences and len(steps) < 14:
        outputs = []
        for index in draw(st.permutations(open_sequences)):
            reason = draw(reasons)
            stop = draw(st.sampled_from([None, 17, 'a "stop"'])) if reason is FinishReason.STOP else None
            ids = draw(st.lists(st.integers(0, 400), max_size=3))
            outputs.append((index, ids, reason, stop))
            if reason is not None:
                open_sequences.remove(index)
        steps.append(outputs)
    flags = st.lists(st.booleans(), min_size=len(steps), max_size=len(steps))
    is_broken = open_sequences or draw(st.booleans())
    return Run(
        n,
        draw(st.sampled_from([None, None, ["e"], ["ab", "th"]])),
        steps,
        [True] * len(steps) if in_turn else draw(flags),
        [False] * len(steps) if in_turn else draw(flags),
        EngineDeadError() if is_broken else None,
        draw(flags),
    )


async def settle():
    for _ in range(8):
        await asyncio.sleep(0)


def metered_stream(engine, run):
    params = SamplingParams(n=run.n, stop=run.stop, output_kind=RequestOutputKind.DELTA, max_tokens=99)
    client = engine.client()
    settled = []
    return MeteredStream(
        client.generate(None, params, ENGINE_ID),
        SimpleNamespace(settle=lambda **tokens: settled.append(tokens)),
        UsageCounters(),
        lambda: client.abort(ENGINE_ID),
        n=run.n,
        progress=None,
        steered=None,
        looped=canary_loops(),
        engine_id=ENGINE_ID,
    )


async def played(run, tokenizer, reader, *, direct):
    """Let the engine make its steps while a reader reads. Returns: the reader's result, and the counters."""
    vars(output_processor).update(RequestState=DirectRequestState if direct else RequestState)
    collector = BoundedOutputCollector if direct else RequestOutputCollector
    engine = Engine(OutputProcessor(tokenizer, log_stats=True), run.n, run.stop, collector)
    metered = metered_stream(engine, run)
    client = Client()
    task = asyncio.ensure_future(reader(engine, metered, client))
    await settle()
    for outputs, has_turn, is_slow, is_behind in zip(run.steps, run.turns, run.slow, run.behind, strict=True):
        client.read(is_slow)
        engine.step(outputs)
        engine.wait_with_further(is_behind)
        if has_turn:
            await settle()
    client.read(False)
    engine.wait_with_further(False)
    await settle()
    if run.failure is not None:
        engine.processor.propagate_error(run.failure)
    text = await task
    await metered.aclose()
    assert not engine.processor.request_states or run.failure is not None
    return text, metered.usage, client


def ours(open_stream, options):
    """Reads the stream as the route does: with the sender of responses, over a connection."""

    async def read(engine, metered, client):
        gate = SimpleNamespace(
            only_stream=lambda: metered, output_processor=engine.processor, engine_core=engine
        )
        stream = open_stream(gate, metered.read())
        writer = stream.writer(PUBLIC, null_usage=null_usage(options))
        sender = ResponseSender({"state": {"body_parts": client}}, None, client.send)
        failure = None
        try:
            await sender.stream(StreamAnswer(stream.events(writer), (), stream.shortcut(writer)), {})
        except LoragateError as error:
            failure = type(error).__name__
            sender.flush()  # as before the error's event
        return b"".join(client.body).decode(), failure

    return read


def theirs(open_stream, options):
    """Reads the stream of vLLM's handler."""

    async def read(engine, metered, client):
        stream = open_stream(None, metered.read())
        events = public_events(stream, INTERNAL, PUBLIC, with_usage=null_usage(options))
        return "".join([event async for event in events])

    return read


def openers(endpoint, run, options, fingerprint, tokenizer):
    """What opens our stream, and vLLM's, for one request."""
    body = {"stream": True, "n": run.n, "stream_options": options}
    if endpoint == "chat":
        request = ChatCompletionRequest.model_validate(
            {"messages": [{"role": "user", "content": "a"}], **body}
        )

        def open_stream(gate, results):
            made = handler(OpenAIServingChat, fingerprint=fingerprint, engine_client=gate)
            if gate is not None:
                install(chat=made)
            return chat_stream(made, request, results, tokenizer)
    else:
        request = CompletionRequest.model_validate({"prompt": "a", "max_tokens": 5, **body})

        def open_stream(gate, results):
            made = handler(OpenAIServingCompletion, fingerprint=fingerprint, engine_client=gate)
            if gate is not None:
                install(completion=made)
            return completion_stream(made, request, results)

    return ours(open_stream, options), theirs(open_stream, options)


def counted(usage):
    tokens = usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens
    return tokens, sorted(usage.finish_reasons), usage.answers_looped, usage.first_token_at is not None


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None)
@given(
    endpoint=st.sampled_from(["chat", "completions"]),
    run=runs(in_turn=True),
    options=stream_options,
    fingerprint=st.sampled_from([None, "fp_1"]),
)
def test_the_bytes_are_those_of_vllms_handlers(tokenizer, endpoint, run, options, fingerprint):
    our_reader, their_reader = openers(endpoint, run, options, fingerprint, tokenizer)
    wanted, their_usage, _ = asyncio.run(played(run, tokenizer, their_reader, direct=False))
    (found, failure), our_usage, _ = asyncio.run(played(run, tokenizer, our_reader, direct=True))
    if failure is not None:  # the route writes the error in our shape, and the end
        wanted = wanted[: wanted.index('data: {"error"')]
    assert found == wanted
    assert counted(our_usage) == counted(their_usage)
    assert sum(our_usage.gap_s.counts) == sum(their_usage.gap_s.counts)


def texts_of(events):
    """What each sequence has said, and its finish reason."""
    said = {}
    for line in events.split("\n\n"):
        for choice in json.loads(line[6:])["choices"] if line.startswith('data: {"id"') else ():
            text = choice.get("text") or choice.get("delta", {}).get("content") or ""
            before, reason = said.get(choice["index"], ("", None))
            said[choice["index"]] = before + text, choice["finish_reason"] or reason
    return said


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None)
@given(endpoint=st.sampled_from(["chat", "completions"]), run=runs(in_turn=False), options=stream_options)
def test_a_slow_client_and_a_busy_loop_lose_nothing(tokenizer, endpoint, run, options):
    our_reader, their_reader = openers(endpoint, run, options, None, tokenizer)
    wanted, their_usage, _ = asyncio.run(played(run, tokenizer, their_reader, direct=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(responses, "_PAUSE_CHARACTERS", 0)  # the sender pauses with each event that it holds
        (found, failure), our_usage, _ = asyncio.run(played(run, tokenizer, our_reader, direct=True))
    assert (failure is not None) == ('data: {"error"' in wanted)
    if failure is None:
        assert texts_of(found) == texts_of(wanted)
        assert found.endswith("data: [DONE]\n\n")
        assert counted(our_usage) == counted(their_usage)


STEPS = [[(0, [60 + i], None, None)] for i in range(9)]
END = [(0, [70], FinishReason.LENGTH, None)]


def run_of(*, slow=None, behind=None):
    count = len(STEPS) + 1
    no = [False] * count
    return Run(1, None, [*STEPS, END], [True] * count, slow or no, None, behind or no)


def test_all_but_the_first_and_the_last_output_pass_the_queue(tokenizer):
    run = run_of()
    reader, _ = openers("chat", run, None, None, tokenizer)
    _, usage, client = asyncio.run(played(run, tokenizer, reader, direct=True))
    assert client.parts == 8
    assert usage.generated_tokens == 10 and sum(usage.gap_s.counts) == 9


def test_nothing_passes_a_client_that_reads_slowly(tokenizer):
    run = run_of(slow=[False, False, *[True] * 7, False])
    reader, _ = openers("chat", run, None, None, tokenizer)
    _, usage, client = asyncio.run(played(run, tokenizer, reader, direct=True))
    assert client.parts == 1
    assert usage.generated_tokens == 10


def test_while_outputs_of_further_steps_wait_parts_are_written_together(tokenizer):
    run = run_of(behind=[False, False, True, True, True, False, True, True, False, False])
    reader, _ = openers("chat", run, None, None, tokenizer)
    (text, _), usage, client = asyncio.run(played(run, tokenizer, reader, direct=True))
    assert client.parts == 3  # of 1, 4 and 3 outputs
    assert text.count('"delta"') == 11  # the role, and ten outputs
    assert usage.generated_tokens == 10


def test_no_part_waits_for_longer_than_its_time(tokenizer, monkeypatch):
    monkeypatch.setattr(part_flusher, "LONGEST_S", 0.0)
    run = run_of(behind=[True] * 10)
    reader, _ = openers("chat", run, None, None, tokenizer)
    _, _, client = asyncio.run(played(run, tokenizer, reader, direct=True))
    assert client.parts == 8


def test_an_output_that_cannot_be_sent_ends_its_stream_alone(tokenizer, monkeypatch):
    run = run_of()
    reader, _ = openers("chat", run, None, None, tokenizer)

    def broken(self, part):
        raise OSError("no connection")

    monkeypatch.setattr(Client, "write", broken)
    (_, failure), _, _ = asyncio.run(played(run, tokenizer, reader, direct=True))
    assert failure == "InternalError"


@pytest.mark.parametrize(
    "change", [{"shadowed": SimpleNamespace(add=lambda *one: None, end=lambda: None)}, {}]
)
def test_a_stream_whose_outputs_somebody_else_needs_keeps_its_queue(tokenizer, change):
    run = run_of()
    reader, _ = openers("chat", run, None, None, tokenizer)

    async def read(engine, metered, client):
        for name, value in change.items():
            setattr(metered, name, value)
        return await reader(engine, metered, client)

    _, usage, client = asyncio.run(played(run, tokenizer, read, direct=True))
    assert client.parts == (0 if change else 8)
    assert usage.generated_tokens == 10


def test_vllm_uses_it():
    """What the subclass replaces, and where its names are looked up."""
    shortcut.install()
    assert output_processor.RequestState is DirectRequestState
    assert list(inspect.signature(RequestState.make_request_output).parameters)[:4] == [
        "self",
        "new_token_ids",
        "pooling_output",
        "finish_reason",
    ]
    assert "RequestState.from_new_request(" in inspect.getsource(OutputProcessor.add_request)
    processed = inspect.getsource(OutputProcessor.process_outputs)
    for use in ("if request_output := req_state.make_request_output(", "req_state.queue.put(request_output)"):
        assert use in processed
    assert "await self.ready.wait()" in inspect.getsource(RequestOutputCollector.get)
    assert "await self.outputs_queue.get()" in inspect.getsource(AsyncMPClient.get_output_async)
