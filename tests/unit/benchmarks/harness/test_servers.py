"""Server processes: flags, logs, and that no server outlives its benchmark."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.harness.servers import EngineFlags, ServerFailed, free_port, scratch, start_process

#: Like stock vLLM, a server whose processes do not end with their parent. It prints the ids of both processes.
SERVER = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""

BENCHMARK = """
import sys, time
from pathlib import Path
from benchmarks.harness.servers import start_process
start_process("peer", [sys.executable, "-c", sys.argv[1]], 1, "/", Path(sys.argv[2]))
time.sleep(600)
"""


def printed_ids(log: Path) -> list[int]:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if log.exists() and (text := log.read_text(encoding="utf-8").split()):
            return [int(pid) for pid in text]
        time.sleep(0.05)
    raise AssertionError("the server printed nothing")


def gone(pids: list[int], within_s: float = 10) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if not any(lives(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_a_killed_benchmark_leaves_no_process_of_its_server(tmp_path: Path) -> None:
    benchmark = subprocess.Popen([sys.executable, "-c", BENCHMARK, SERVER, str(tmp_path)])
    pids = printed_ids(tmp_path / "peer.1.log")
    assert len(pids) == 2 and all(lives(pid) for pid in pids)
    os.kill(benchmark.pid, signal.SIGKILL)
    benchmark.wait()
    assert gone(pids)


def test_a_killed_server_leaves_neither_a_process_nor_a_guard(tmp_path: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    with start_process("peer", [sys.executable, "-c", SERVER], free_port(), "/", tmp_path) as server:
        pids = printed_ids(server.log)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()  # its child now has no parent
    assert gone(pids)
    assert {child.pid for child in psutil.Process().children()} <= before


def test_flags_without_a_value_are_left_out() -> None:
    flags = EngineFlags(model=Path("m"), name="n", dtype="auto")
    assert "--dtype" not in flags.engine() and "--max-model-len" not in flags.engine()
    assert "--max-model-len 512" in " ".join(EngineFlags(Path("m"), "n", max_model_len=512).engine())


def test_the_error_of_a_server_that_ends_has_the_end_of_its_log() -> None:
    with scratch() as home:
        server = start_process("broken", ["sh", "-c", "echo no such flag; exit 3"], 1, "/ready", home)
        with server, pytest.raises(ServerFailed, match=r"ended with 3:\nno such flag"):
            server.wait_ready()
    assert not home.exists()


@pytest.mark.slow
def test_a_server_is_stopped_with_all_its_processes() -> None:
    with scratch() as home:
        with start_process("stubborn", ["sh", "-c", "sleep 300 & wait"], 1, "/ready", home) as server:
            while len(server.processes()) < 2:
                pass
            below = server.processes()
        assert not any(process.is_running() for process in below)
