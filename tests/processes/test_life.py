"""The server's life as a process: restart of a dead engine, drain, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from server_process import ServerProcess, gone, start

HEADERS = {"authorization": "Bearer demo-acme"}
ASK = {"model": "acme-support", "messages": [{"role": "user", "content": "Hello!"}], "temperature": 0}
ENDLESS = ASK | {"ignore_eos": True, "max_tokens": 1500, "stream": True}


def ask(server: ServerProcess, body: dict[str, object] = ASK) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=HEADERS, timeout=60)


@pytest.mark.timeout(600)
def test_engine_dies_and_comes_back_and_the_server_drains(tmp_path: Path) -> None:
    # Large blocks go back to the kernel at once: with an address space that is limited, the engine then finds none.
    variables = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    flags = ("--demo", "--drain-delay-s", "1.5", "--shutdown-timeout", "30")
    server = start(*flags, data_dir=tmp_path, variables=variables)
    try:
        early = ask(server)
        assert early.status_code == 503 and 1 <= int(early.headers["retry-after"]) <= 120
        assert httpx.get(f"{server.url}/health").status_code == 503
        server.wait_for("/ready", 200)
        before = ask(server).json()["choices"][0]["message"]["content"]

        for _ in range(2):  # the second time, the fork server has served a restart already
            victims = [p for p in server.children() if p.is_running()]
            with httpx.stream(
                "POST", f"{server.url}/v1/chat/completions", json=ENDLESS, headers=HEADERS, timeout=60
            ) as stream:
                lines = stream.iter_lines()
                next(lines)
                server.child("EngineCore").send_signal(signal.SIGKILL)
                rest = [line for line in lines if line]
            assert '"code": "engine_unavailable"' in rest[-2] and rest[-1] == "data: [DONE]", rest[-3:]
            server.wait_for("/health", 503, timeout_s=10)
            refused = ask(server)
            assert refused.status_code == 503 and 1 <= int(refused.headers["retry-after"]) <= 120
            took_s = server.wait_for("/ready", 200)
            print(f"serving again {took_s:.1f} s after kill -9 of EngineCore")
            assert took_s < 60
            assert ask(server).json()["choices"][0]["message"]["content"] == before
            left = [p for p in victims if "VLLM" in " ".join(_cmdline(p)) and p not in server.children()]
            assert gone(left), left

        check_death_for_want_of_memory(server, before)
        check_drain(server)
    finally:
        if server.process.poll() is None:
            server.process.kill()


def let_engine_run_out_of_memory(server: ServerProcess) -> list[str]:
    """Let the engine die, and wait for the next one; returns what was said about memory."""
    engine = server.child("EngineCore")

    def score(words: int, top: int) -> httpx.Response:
        """The scores of a prompt of so many words."""
        body = {"model": "loragate-demo", "prompt": "fox " * words, "max_tokens": 1, "prompt_logprobs": top}
        return httpx.post(f"{server.url}/v1/completions", json=body, headers=HEADERS, timeout=120)

    # The first large message starts a thread of pyzmq; one that finds no memory for it aborts without a word.
    assert score(900, 20).status_code == 200
    for mib in (8, 4, 2):  # less if one that size is enough: heaps grow in steps
        engine.rlimit(psutil.RLIMIT_AS, (engine.memory_info().vms + (mib << 20), psutil.RLIM_INFINITY))
        died = score(4000, 5)
        if died.status_code != 200:
            break
    assert died.status_code in (500, 503), died.text
    server.wait_for("/health", 503, timeout_s=20)
    server.wait_for("/ready", 200)
    return [str(line["event"]) for line in server.lines if "ran out of memory" in str(line.get("event"))]


def check_death_for_want_of_memory(server: ServerProcess, answer: str) -> None:
    """The engine gets hardly more address space than it has: a long prompt's scores find none, and it dies.

    What it says then is one screen: what was asked, what there was, and what to change.
    """
    screens = let_engine_run_out_of_memory(server)
    assert len(screens) == 1, server.tail()
    lines = screens[0].splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["reason", "asked", "needs", "there"], lines
    # Whoever found none first says it in words of its own: torch, oneDNN, C++ or Python.
    words = ("allocate", "create a primitive", "bad_alloc", "MemoryError")
    assert any(word in lines[1] for word in words) and len(lines) <= 24, screens[0]
    assert "Traceback" not in screens[0], screens[0]
    assert any(line.strip().startswith("--") for line in lines), lines
    assert ask(server).json()["choices"][0]["message"]["content"] == answer


def check_drain(server: ServerProcess) -> None:
    """SIGTERM: /ready says no, running streams end, new work is refused, exit 0, no orphan."""
    children = server.children()
    events: list[str] = []
    begun = threading.Event()

    def stream() -> None:
        body = ENDLESS | {"max_tokens": 700}
        with httpx.stream(
            "POST", f"{server.url}/v1/chat/completions", json=body, headers=HEADERS, timeout=60
        ) as answer:
            for line in answer.iter_lines():
                begun.set()
                if line:
                    events.append(line)

    reader = threading.Thread(target=stream)
    reader.start()
    assert begun.wait(20)
    server.process.send_signal(signal.SIGTERM)
    server.wait_for("/ready", 503, timeout_s=1.4)
    assert ask(server).status_code == 200, "during the drain delay new work is still taken"
    refused = None
    while reader.is_alive() and refused is None:
        answer = ask(server)
        if answer.status_code == 503:
            refused = answer
    if refused is not None:
        assert refused.json()["error"]["code"] == "draining" and refused.headers["retry-after"]
    reader.join(60)
    assert events[-1] == "data: [DONE]"
    assert '"finish_reason":"length"' in "".join(events[-4:]), events[-4:]
    assert server.process.wait(60) == 0
    assert gone(children), [p.cmdline() for p in children if p.is_running()]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_cut_off_and_kill_9(tmp_path: Path) -> None:
    """What does not end in time gets an error event; and `kill -9` of the server leaves no orphan."""
    server = start("--demo", "--shutdown-timeout", "0.3", data_dir=tmp_path)
    try:
        server.wait_for("/ready", 200)
        children = server.children()
        with httpx.stream(
            "POST",
            f"{server.url}/v1/chat/completions",
            json=ENDLESS | {"max_tokens": 1900},
            headers=HEADERS,
            timeout=60,
        ) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        error = json.loads(rest[-2].removeprefix("data: "))["error"]
        assert error["code"] == "draining" and rest[-1] == "data: [DONE]"
        assert server.process.wait(60) == 0
        assert gone(children)
    finally:
        if server.process.poll() is None:
            server.process.kill()

    again = start("--demo", data_dir=tmp_path)
    try:
        time.sleep(3)  # in the middle of the engine's start
        starting = again.children()
        os.kill(again.pid, signal.SIGKILL)
        again.process.wait(10)
        assert gone(starting), "orphans of a server that was killed while starting"

        again = start("--demo", data_dir=tmp_path)
        again.wait_for("/ready", 200)
        children = again.children()
        assert children
        os.kill(again.pid, signal.SIGKILL)
        again.process.wait(10)
        assert gone(children), [c.cmdline() for c in children if c.is_running()]
    finally:
        if again.process.poll() is None:
            again.process.kill()


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
