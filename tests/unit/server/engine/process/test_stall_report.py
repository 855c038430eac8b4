"""What a process shares with the server, and what is saved of one that hangs, with real processes."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from server.engine.process import heartbeat, stall_report
from server.engine.process.heartbeat import VARIABLE, LifeSigns

pytestmark = pytest.mark.slow
#: Python of a loaded machine needs its time to start.
START_S = 60


def until(condition: Callable[[], object], timeout_s: float = START_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def work() -> None:
    """An engine process that beats, and then hangs in a loop."""
    heartbeat.attach()
    for _ in range(3):
        heartbeat._answer(None)
    spin_for_ever()


def spin_for_ever() -> None:
    while True:
        pass


def backtrack_for_ever() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


def hold_the_gil() -> None:
    heartbeat.attach()
    heartbeat._answer(None)
    backtrack_for_ever()


def be_a_stranger() -> None:
    """A process that is not attached: the signal would end it."""
    print("ready", flush=True)
    spin_for_ever()


@pytest.fixture
def signs() -> Iterator[LifeSigns]:
    made = LifeSigns()
    yield made
    made.close()


@pytest.fixture
def started(signs: LifeSigns) -> Iterator[Callable[[Callable[[], None]], BaseProcess]]:
    processes: list[BaseProcess] = []

    def start(target: Callable[[], None]) -> BaseProcess:
        process = multiprocessing.get_context("fork").Process(target=target, daemon=True)
        with signs.shared():
            process.start()
            processes.append(process)
            if target is not be_a_stranger:
                until(lambda: signs.pings)
        return process

    yield start
    for process in processes:
        process.kill()
        process.join()


@pytest.fixture
def no_py_spy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall_report.shutil, "which", lambda name, path=None: None)


def save(process: BaseProcess, signs: LifeSigns, folder: Path) -> str:
    assert process.pid
    return stall_report.save_report([process.pid], signs.stacks, folder).read_text()


def test_a_process_shares_its_beats_and_leaves_nothing(
    signs: LifeSigns, started: Callable[[Callable[[], None]], BaseProcess]
) -> None:
    assert (signs.last_beat, signs.pings) == (0, 0)
    started(work)
    until(lambda: signs.pings == 3)
    assert 0 < signs.last_beat <= time.monotonic_ns()
    assert VARIABLE not in os.environ and not signs._folder.exists()


def test_the_server_itself_attaches_to_nothing(signs: LifeSigns) -> None:
    with signs.shared():
        heartbeat.attach()
        assert stat.S_IMODE(signs._folder.stat().st_mode) == 0o700
    heartbeat.beat()
    assert signs.last_beat == 0


@pytest.mark.parametrize(
    ("target", "where"), [(work, "in spin_for_ever"), (hold_the_gil, "in backtrack_for_ever")]
)
def test_the_stack_of_a_process_that_hangs(
    signs: LifeSigns,
    started: Callable[[Callable[[], None]], BaseProcess],
    no_py_spy: None,
    tmp_path: Path,
    target: Callable[[], None],
    where: str,
) -> None:
    report = save(started(target), signs, tmp_path)
    assert where in report and "state R" in report


def test_a_stopped_process_is_continued_for_its_report(
    signs: LifeSigns,
    started: Callable[[Callable[[], None]], BaseProcess],
    no_py_spy: None,
    tmp_path: Path,
) -> None:
    process = started(work)
    assert process.pid
    os.kill(process.pid, signal.SIGSTOP)
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    report = save(process, signs, tmp_path)
    assert "in spin_for_ever" in report and "state T" in report


def test_a_process_without_a_handler_is_not_signalled(
    signs: LifeSigns,
    started: Callable[[Callable[[], None]], BaseProcess],
    no_py_spy: None,
    tmp_path: Path,
) -> None:
    process = started(be_a_stranger)
    report = save(process, signs, tmp_path)
    assert "The process wrote no stack." in report and process.is_alive()


def program(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a py-spy of our own into PATH."""
    file = folder / "py-spy"
    file.write_text(f"#!{sys.executable}\n{text}")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_py_spy_comes_first_and_leaves_a_stopped_process_alone(
    signs: LifeSigns,
    started: Callable[[Callable[[], None]], BaseProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program(tmp_path, "import sys; print('called with', *sys.argv[1:])", monkeypatch)
    process = started(work)
    assert process.pid
    assert f"called with dump --pid {process.pid}\n" in save(process, signs, tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    assert f"called with dump --pid {process.pid} --nonblocking\n" in save(process, signs, tmp_path)
    assert psutil.Process(process.pid).status() == psutil.STATUS_STOPPED


@pytest.mark.parametrize("text", ["raise SystemExit(1)", "import time; time.sleep(60)"])
def test_where_py_spy_fails_the_process_writes_its_stack(
    signs: LifeSigns,
    started: Callable[[Callable[[], None]], BaseProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
) -> None:
    monkeypatch.setattr(stall_report, "_PROCESS_TIMEOUT_S", 1.5)
    program(tmp_path, text, monkeypatch)
    assert "in spin_for_ever" in save(started(work), signs, tmp_path)


def test_the_newest_reports_are_kept(signs: LifeSigns, tmp_path: Path) -> None:
    for number in range(stall_report.KEPT_REPORTS + 3):
        newest = stall_report.save_report([], signs.stacks, tmp_path)
        assert len(list(tmp_path.iterdir())) == min(number + 1, stall_report.KEPT_REPORTS)
    assert newest.exists()


def test_kill_ends_a_stopped_process_and_its_children(tmp_path: Path) -> None:
    script = "import subprocess; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    parent = psutil.Popen([sys.executable, "-c", script], stdout=-1)
    child = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGSTOP)
    assert stall_report.kill_stalled([parent.pid]) == []
    parent.wait(10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert stall_report.kill_stalled([parent.pid]) == []
