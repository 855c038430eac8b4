"""An engine that stops making progress is noticed, reported, killed and replaced; one that is only slow is not."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_process import ServerProcess, start

#: As in faulty_worker.py, whose import would import vLLM.
FAULT_VARIABLE = "FAULTY_WORKER_FILE"
#: More than the first step of an engine takes, in which torch compiles.
STALL_S = 12.0
#: From the last sign of life: the limit, one ping interval, a poll of the watchdog and one of this test, and the
#: delay of a busy machine.
NOTICED_WITHIN_S = STALL_S + 3.0
RESTART_TIMEOUT_S = 120
#: The time of running answers, and what a stop may take on a busy machine beyond it.
SHUTDOWN_TIMEOUT_S, STOP_ALLOWED_S = 1, 25
HEADERS = {"authorization": "Bearer demo-acme"}


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults") / "fault"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, faults: Path) -> Iterator[ServerProcess]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(FAULT_VARIABLE, str(faults))
        environment.setenv("PYTHONPATH", f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}")
        running = start(
            "--demo",
            "--engine-stall-s",
            f"{STALL_S:g}",
            "--shutdown-timeout",
            str(SHUTDOWN_TIMEOUT_S),
            "--engine-args",
            json.dumps({"worker_cls": "faulty_worker.FaultyWorker"}),
            data_dir=tmp_path_factory.mktemp("loragate"),
        )
    try:
        running.wait_for("/ready", 200)
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()


def body(*, stream: bool = False, max_tokens: int = 8) -> dict[str, Any]:
    return {
        "model": "acme-support", "prompt": "Tell me about", "max_tokens": max_tokens, "temperature": 0,
        "ignore_eos": True, "stream": stream,
    }  # fmt: skip


def ask(server: ServerProcess, **options: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/completions", json=body(**options), headers=HEADERS, timeout=60)


class Stream(threading.Thread):
    """Reads one streamed answer to its end."""

    def __init__(self, server: ServerProcess, *, max_tokens: int) -> None:
        super().__init__(daemon=True)
        self._url, self._max_tokens = server.url, max_tokens
        self.lines: list[str] = []
        self.began = threading.Event()
        self.start()

    def run(self) -> None:
        request = body(stream=True, max_tokens=self._max_tokens)
        with httpx.stream(
            "POST", f"{self._url}/v1/completions", json=request, headers=HEADERS, timeout=60
        ) as answer:
            for line in answer.iter_lines():
                if line:
                    self.lines.append(line)
                    self.began.set()

    def error(self) -> dict[str, Any]:
        """The error event at the end."""
        self.join(30)
        assert not self.is_alive(), "the stream hangs"
        assert self.lines[-1] == "data: [DONE]" and self.lines[-2].startswith('data: {"type": "error"'), (
            self.lines[-3:]
        )
        error: dict[str, Any] = json.loads(self.lines[-2].removeprefix("data: "))["error"]
        return error


def seconds_until_noticed(server: ServerProcess) -> float:
    """How long /health stays 200; then it names the stall."""
    began = time.monotonic()
    while time.monotonic() - began < 30:
        answer = httpx.get(f"{server.url}/health", timeout=5)
        if answer.status_code == 503:
            noticed_s = time.monotonic() - began
            assert answer.json()["error"]["code"] == "engine_stalled", answer.text
            return noticed_s
        time.sleep(0.05)
    raise AssertionError("nothing noticed the stall:\n" + server.tail())


def check_recovery(server: ServerProcess, stalls: int, engine: int) -> str:
    """A new engine answers, the metrics count the stall, and there is a report; returns its text."""
    refused = ask(server)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_stalled"), refused.text
    server.wait_for("/ready", 200, RESTART_TIMEOUT_S)
    assert ask(server).status_code == 200
    assert httpx.get(f"{server.url}/health").json() == {"status": "ready"}
    assert not Path(f"/proc/{engine}").exists(), "the stalled engine still exists"
    assert f"loragate_engine_stalls_total {stalls}.0" in httpx.get(f"{server.url}/metrics").text
    reports = sorted((server.data_dir / "demo" / "engine-stalls").iterdir())
    assert len(reports) == stalls
    return reports[-1].read_text()


@pytest.mark.timeout(300)
def test_a_stopped_engine(server: ServerProcess, record_property: Any) -> None:
    engine = server.child("EngineCore").pid
    stream = Stream(server, max_tokens=400)
    assert stream.began.wait(30)
    whole: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: whole.append(ask(server, max_tokens=400)), daemon=True)
    asking.start()
    time.sleep(0.2)
    os.kill(engine, signal.SIGSTOP)
    stall_noticed_s = seconds_until_noticed(server)
    record_property("stall_noticed_s", stall_noticed_s)
    print(f"stall_noticed_s {stall_noticed_s:.2f}")
    assert STALL_S - 1 <= stall_noticed_s <= NOTICED_WITHIN_S
    assert stream.error()["code"] == "engine_unavailable"
    asking.join(30)
    assert whole[0].status_code == 503 and "retry-after" in whole[0].headers
    report = check_recovery(server, 1, engine)
    assert "state T" in report, report
    assert "run_busy_loop" in report, "without py-spy the stopped process is continued for its report"


@pytest.mark.timeout(300)
def test_an_idle_engine_that_is_stopped(server: ServerProcess) -> None:
    engine = server.child("EngineCore").pid
    time.sleep(2)
    os.kill(engine, signal.SIGSTOP)
    assert seconds_until_noticed(server) <= NOTICED_WITHIN_S
    check_recovery(server, 2, engine)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "where", "stalls"), [("loop", "_loop", 3), ("hold_gil", "_backtrack", 4)])
def test_a_step_that_never_ends(
    server: ServerProcess, faults: Path, kind: str, where: str, stalls: int
) -> None:
    engine = server.child("EngineCore").pid
    stream = Stream(server, max_tokens=400)
    assert stream.began.wait(30)
    faults.write_text(f"{kind} 0")
    assert seconds_until_noticed(server) <= NOTICED_WITHIN_S
    assert stream.error()["code"] == "engine_unavailable"
    report = check_recovery(server, stalls, engine)
    # As py-spy writes it, or as faulthandler does where py-spy is not installed.
    assert re.search(rf"[\s.]{where}\b", report) and "faulty_worker.py" in report, report


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("kind", "seconds"), [("sleep", 0.7 * STALL_S), ("slow_layers", 0.5 * STALL_S)])
def test_a_step_that_is_only_long(server: ServerProcess, faults: Path, kind: str, seconds: float) -> None:
    """The slow layers take longer than the limit together, and each of them reports progress."""
    engine = server.child("EngineCore").pid
    faults.write_text(f"{kind} {seconds}")
    began = time.monotonic()
    assert ask(server).status_code == 200
    took_s = time.monotonic() - began
    assert took_s > (STALL_S if kind == "slow_layers" else seconds), took_s
    assert server.child("EngineCore").pid == engine
    assert httpx.get(f"{server.url}/health").json() == {"status": "ready"}


def test_a_stop_while_the_engine_does_not_answer(server: ServerProcess) -> None:
    """The last one, because it ends the server of all."""
    os.kill(server.child("EngineCore").pid, signal.SIGSTOP)
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(ask(server)), daemon=True)
    asking.start()
    time.sleep(0.5)
    server.check_stop(SHUTDOWN_TIMEOUT_S + STOP_ALLOWED_S)
    asking.join(10)
    assert [answer.status_code for answer in answers] == [503], "the request got an answer too"
    assert answers[0].json()["error"]["type"] == "server_error"
