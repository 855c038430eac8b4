"""A stop ends within its time and without a traceback, whatever the engine does."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import httpx
from server_process import ServerProcess, gone, start

#: Of both tests, in seconds: the time of running answers, and what a stop may take on a busy machine beyond it.
SHUTDOWN_TIMEOUT_S, ALLOWED_S = 1, 25


def _stop(running: ServerProcess) -> None:
    """SIGTERM; the server must end cleanly, in time, with all its processes."""
    below = running.children()
    began = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 0, running.tail()
    assert time.monotonic() - began < SHUTDOWN_TIMEOUT_S + ALLOWED_S
    assert gone(below)
    assert "Traceback" not in "\n".join(running.raw), running.tail()


def _launch(data_dir: Path) -> ServerProcess:
    return start("--demo", "--shutdown-timeout", str(SHUTDOWN_TIMEOUT_S), data_dir=data_dir)


def test_a_stop_while_the_engine_does_not_answer(tmp_path: Path) -> None:
    running = _launch(tmp_path)
    try:
        running.wait_for("/ready", 200)
        engine = running.child("EngineCore").pid
        os.kill(engine, signal.SIGSTOP)
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(_ask(running.url)), daemon=True)
        asking.start()
        time.sleep(0.5)
        _stop(running)
        asking.join(10)
        assert [answer.status_code for answer in answers] == [503], "the request got an answer too"
        assert answers[0].json()["error"]["type"] == "server_error"
    finally:
        if running.process.poll() is None:
            running.process.kill()


def _ask(url: str) -> httpx.Response:
    body = {"model": "acme-support", "messages": [{"role": "user", "content": "Hello!"}]}
    headers = {"authorization": "Bearer demo-acme"}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)


def test_a_stop_while_the_engine_starts(tmp_path: Path) -> None:
    running = _launch(tmp_path)
    try:
        running.wait_for("/health", 503)
        _stop(running)
    finally:
        if running.process.poll() is None:
            running.process.kill()
