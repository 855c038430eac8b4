"""What is chosen, what is dropped, and that nothing waits for a record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from adapters.models import Key, Role, Tenant
from adapters.tenant_settings import RecordSettings, TenantSettings
from sampling.endpoints import Endpoint
from sampling.resolution import Resolved
from server.engine.workers.errors import WorkerDied, WorkRefused, WorkTimedOut
from server.request.context import Caller, JsonAnswer, RequestContext, StreamAnswer, Target
from server.usage.records import recorder as recorders
from server.usage.records.record_files import RecordFiles
from server.usage.records.recorder import Recorder, workers

KEY = Key("k", "acme", Role.INFERENCE, "lg-", "0", None, None, None, datetime.now(UTC))
BODY = json.dumps({"messages": [{"role": "user", "content": "I am a@b.de"}]}).encode()
ANSWER = {
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello."}}]
}


def caller(share: float | None = 1.0, *patterns: str, tenant: str = "acme") -> Caller:
    records = None if share is None else RecordSettings(share=share, patterns=patterns)
    return Caller(KEY, Tenant(tenant, TenantSettings(records=records)))


def context(of: Caller) -> RequestContext:
    return RequestContext(
        "r-1", Endpoint.CHAT, of, Target("acme-support", None), Resolved({}, {}, ()), TenantSettings(), "s"
    )


class InProcess:
    """Stands for the worker processes: runs the task here, or raises what it was told to."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.may_run = asyncio.Event()
        self.may_run.set()

    async def run(self, tenant: str, task: Callable[..., bytes], *arguments: Any, limit_s: float) -> bytes:
        await self.may_run.wait()
        if self.error is not None:
            raise self.error
        return task(*arguments)

    async def close(self) -> None:
        return None


class Rig:
    def __init__(self, folder: Path) -> None:
        self.place, self.drawn, self.redaction = folder / "place", 0.0, InProcess()
        files = RecordFiles(str(self.place), folder / "data", keep_days=1, max_bytes=1 << 30)
        self.recorder = Recorder(files, lambda: self.drawn, lambda: self.redaction)

    def exchange(self, of: Caller, answer: Any = ANSWER, body: bytes = BODY) -> None:
        with self.recorder.recording(of, Endpoint.CHAT, body) as recording:
            if recording is not None:
                recording.noting(JsonAnswer(answer))
                recording.answered(context(of))

    def rows(self, tenant: str = "acme") -> list[Any]:
        lines = [
            line for file in (self.place / tenant).glob("*.jsonl") for line in file.read_text().splitlines()
        ]
        return [json.loads(line) for line in lines]

    def counts(self) -> dict[str, int]:
        return {outcome.value: count for outcome, count in self.recorder.counts.items()}

    def held(self) -> tuple[int, int]:
        return self.recorder._held.total(), self.recorder._held_of_all


@pytest.fixture
async def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_an_exchange_is_written_redacted_to_its_tenants_file(rig: Rig) -> None:
    rig.exchange(caller())
    rig.exchange(caller(tenant="globex"))
    await rig.recorder.aclose()
    (row,) = rig.rows()
    assert [message["content"] for message in row["messages"]] == ["I am [email]", "Hello."]
    assert (row["record"]["id"], row["record"]["model"]) == ("r-1", "acme-support")
    assert len(rig.rows("globex")) == 1 and rig.counts() == {"written": 2} and rig.held() == (0, 0)


async def test_only_tenants_that_want_it_are_recorded_and_the_server_draws(rig: Rig) -> None:
    assert rig.recorder.begin(caller(None), Endpoint.CHAT, BODY) is None
    assert rig.recorder.begin(Caller(KEY, None), Endpoint.CHAT, BODY) is None
    rig.drawn = 0.25
    assert rig.recorder.begin(caller(0.25), Endpoint.CHAT, BODY) is None
    assert rig.recorder.begin(caller(0.26), Endpoint.CHAT, BODY) is not None
    assert Recorder(None).begin(caller(), Endpoint.CHAT, BODY) is None
    assert rig.counts() == {}


async def events(*parts: str, fails: bool = False) -> AsyncGenerator[str]:
    for part in parts:
        yield part
    if fails:
        raise ConnectionError


def chunk(text: str, reason: str | None = None) -> str:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return f"data: {json.dumps({'choices': [choice]})}\n\n"


async def test_no_event_of_a_recorded_stream_goes_past_the_recording(rig: Rig) -> None:
    with rig.recorder.recording(caller(), Endpoint.CHAT, BODY) as recording:
        assert recording is not None
        answer = recording.noting(StreamAnswer(events("a"), shortcut=lambda parts: None))
        assert isinstance(answer, StreamAnswer) and answer.shortcut is None
        await answer.events.aclose()
    await rig.recorder.aclose()


async def stream(rig: Rig, *parts: str, fails: bool = False) -> list[str]:
    of, sent = caller(), []
    with rig.recorder.recording(of, Endpoint.CHAT, BODY) as recording:
        assert recording is not None
        answer = recording.noting(StreamAnswer(events(*parts, fails=fails)))
        assert isinstance(answer, StreamAnswer)
        async for event in answer.events:
            sent.append(event)
        recording.answered(context(of))
    return sent


async def test_a_stream_is_sent_as_it_is_and_recorded_when_it_is_whole(rig: Rig) -> None:
    parts = [chunk("Hel"), chunk("lo.", "stop"), "data: [DONE]\n\n"]
    assert await stream(rig, *parts) == parts
    with pytest.raises(ConnectionError):
        await stream(rig, chunk("Hel"), fails=True)
    await stream(rig, chunk("Hel", "length"))
    await rig.recorder.aclose()
    assert [row["messages"][-1]["content"] for row in rig.rows()] == ["Hello."]
    assert rig.counts() == {"written": 1, "incomplete": 2} and rig.held() == (0, 0)


async def test_what_is_too_large_is_dropped_and_the_stream_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorders, "MAX_EXCHANGE_BYTES", 200)
    parts = [chunk("a" * 50), chunk("b" * 50), chunk("c", "stop")]
    assert await stream(rig, *parts) == parts
    rig.exchange(caller(), body=b" " * 201)
    await rig.recorder.aclose()
    assert rig.counts() == {"too_large": 2} and rig.held() == (0, 0)


async def test_a_full_memory_drops_one_tenants_records_and_not_anothers(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorders, "MAX_HELD_BYTES_PER_TENANT", 2 * len(BODY))
    rig.redaction.may_run.clear()
    for _ in range(3):
        rig.exchange(caller())
    rig.exchange(caller(tenant="globex"))
    rig.redaction.may_run.set()
    await rig.recorder.aclose()
    assert rig.counts() == {"dropped": 1, "written": 3}
    assert (len(rig.rows()), len(rig.rows("globex"))) == (2, 1) and rig.held() == (0, 0)


async def test_a_pattern_that_takes_too_long_pauses_its_tenants_records(rig: Rig) -> None:
    rig.redaction.error = WorkTimedOut(2.0)
    rig.exchange(caller())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rig.redaction.error = None
    rig.exchange(caller())
    rig.exchange(caller(tenant="globex"))
    await rig.recorder.aclose()
    assert rig.counts() == {"timeout": 2, "written": 1} and rig.rows() == [] and rig.held() == (0, 0)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(WorkRefused(128), "dropped"), (WorkerDied(1), "failed"), (RuntimeError("anything"), "failed")],
)
async def test_what_cannot_be_redacted_is_never_written(rig: Rig, error: Exception, outcome: str) -> None:
    rig.redaction.error = error
    rig.exchange(caller())
    await rig.recorder.aclose()
    assert rig.counts() == {outcome: 1} and rig.rows() == [] and rig.held() == (0, 0)


async def test_the_end_of_the_server_waits_for_no_redaction(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorders, "_CLOSE_S", 0.0)
    rig.redaction.may_run.clear()
    rig.exchange(caller())
    await rig.recorder.aclose()
    assert rig.counts() == {"dropped": 1} and rig.held() == (0, 0)


async def test_a_full_disk_is_counted(rig: Rig) -> None:
    (rig.place.parent / "data" / "acme").write_text("a file where a folder should be")
    rig.exchange(caller())
    await rig.recorder.aclose()
    assert rig.counts() == {"failed": 1} and rig.held() == (0, 0)


@pytest.mark.slow
async def test_a_catastrophic_pattern_is_ended_with_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorders, "LIMIT_S", 3.0)
    rig = Rig(tmp_path)
    rig.recorder._make_redaction = workers
    evil = json.dumps({"messages": [{"role": "user", "content": "a" * 5000 + "!"}]}).encode()
    rig.exchange(caller(1.0, r"(?:a|aa)+$"), body=evil)
    rig.exchange(caller(tenant="globex"))
    while not rig.recorder.counts:
        await asyncio.sleep(0.05)
    await rig.recorder.aclose()
    assert rig.counts() == {"timeout": 1, "written": 1} and rig.rows() == [] and len(rig.rows("globex")) == 1
