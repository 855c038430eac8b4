"""What the processes of a stalled engine were doing, and their end. Leans on nothing of vLLM.

A report has, for each process of the engine, what the kernel knows of its threads and the Python stack of each
thread. The stacks come from py-spy where it is installed and allowed to look into the process. Otherwise the process
writes them itself (`server.engine.process.heartbeat`): `faulthandler` does this inside a signal handler, so it also
works in a loop that never ends and in C code that holds the GIL.

A process that was stopped (SIGSTOP) handles no signal. py-spy can read it as it is; without py-spy it is continued
for the moment that it needs for the report, and ended right after. A process that waits in the kernel for a device
or a disk (state D) writes no report; the kernel's part of it shows the function that it waits in.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil

from server.engine.process.heartbeat import STACK_SIGNAL

#: All stacks together take no longer than this; the engine is ended afterwards in any case.
REPORT_TIMEOUT_S = 10.0
_PROCESS_TIMEOUT_S = 3.0
#: A process that is in the kernel when it is killed ends later.
KILL_TIMEOUT_S = 10.0
#: The oldest reports above this number are deleted.
KEPT_REPORTS = 10
_STOPPED = ("T", "t")


def save_report(pids: list[int], stacks: Callable[[], str], folder: Path) -> Path:
    """Write the report of an engine; returns its file. Blocks for up to REPORT_TIMEOUT_S and a little.

    Args:
        pids: the engine's processes; their children are included.
        stacks: reads what the engine's processes have written so far on STACK_SIGNAL.
        folder: for the reports; the newest KEPT_REPORTS are kept.

    Raises:
        OSError: the report cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    file = folder / f"stall-{now:%Y%m%dT%H%M%S.%fZ}.txt"
    deadline = time.monotonic() + REPORT_TIMEOUT_S
    with file.open("w", encoding="utf-8") as report:
        print(f"The engine gave no sign of life; report of {now.isoformat(timespec='seconds')}.", file=report)
        for process in _tree(pids):
            print(f"\n== process {process.pid}: {_command(process)}", file=report)
            print("\n".join(_threads(process.pid)), file=report)
            print(_python_stacks(process.pid, stacks, deadline) or "The process wrote no stack.", file=report)
            report.flush()
    for old in sorted(folder.glob("stall-*.txt"))[:-KEPT_REPORTS]:
        old.unlink(missing_ok=True)
    return file


def kill_stalled(pids: list[int]) -> list[int]:
    """End the processes and their children with SIGKILL; returns those that still exist after KILL_TIMEOUT_S."""
    processes = _tree(pids)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while (
        left := [process.pid for process in processes if _exists(process)]
    ) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _tree(pids: list[int]) -> list[psutil.Process]:
    """The processes and their descendants; children come after their parents."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(pid)
            found |= {process.pid: process for process in (parent, *parent.children(recursive=True))}
    return list(found.values())


def _exists(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return "(ended)"


def _threads(pid: int) -> Iterator[str]:
    """One line per thread: its name, its state, and the kernel function in which it waits."""
    with contextlib.suppress(OSError):
        for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
            with contextlib.suppress(OSError):
                name, state = (task / "comm").read_text().strip(), _state(task)
                waits = (task / "wchan").read_text().strip("0\n")
                yield f"thread {task.name} ({name}): state {state}" + (f", waits in {waits}" if waits else "")


def _state(folder: Path) -> str:
    """The state letter of a process or thread: R runs, S sleeps, D waits in the kernel, T is stopped."""
    # The name is in parentheses and may contain anything.
    return (folder / "stat").read_text().rpartition(")")[2].split()[0]


def _python_stacks(pid: int, stacks: Callable[[], str], deadline: float) -> str:
    if time.monotonic() >= deadline:
        return ""
    with contextlib.suppress(OSError):
        return _from_py_spy(pid) or _from_the_process(pid, stacks)
    return ""


def _from_py_spy(pid: int) -> str:
    """The stacks as py-spy sees them; empty without py-spy, and where the kernel forbids it."""
    program = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if program is None:
        return ""
    # A stopped process must not be stopped again.
    flags = ["--nonblocking"] if _state(Path(f"/proc/{pid}")) in _STOPPED else []
    try:
        done = subprocess.run(  # noqa: S603
            [program, "dump", "--pid", str(pid), *flags],
            capture_output=True,
            text=True,
            timeout=_PROCESS_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _from_the_process(pid: int, stacks: Callable[[], str]) -> str:
    """What the process itself writes; empty when it does not write in time, or has no handler."""
    if not _handles(pid, STACK_SIGNAL):
        return ""
    before = len(stacks())
    os.kill(pid, STACK_SIGNAL)
    if _state(Path(f"/proc/{pid}")) in _STOPPED:
        os.kill(pid, signal.SIGCONT)
    deadline = time.monotonic() + _PROCESS_TIMEOUT_S
    written = ""
    while time.monotonic() < deadline:
        time.sleep(0.05)
        seen, written = written, stacks()[before:]
        if written and written == seen:
            break
    return written


def _handles(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal, which would end it otherwise."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False
