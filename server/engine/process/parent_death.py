"""Makes sure that no engine process outlives the server.

Every process that vLLM starts runs `die_with_parent` through our plugin. The kernel then kills the process when its
parent ends, for any reason: `kill -9` of the server also ends the fork server and EngineCore, and the end of
EngineCore ends its workers. Leans on nothing of vLLM except that it loads our plugin.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_INIT_PID = 1


def die_with_parent() -> None:
    """End this process with its parent; does nothing in the server itself, which has no parent of ours."""
    if multiprocessing.parent_process() is not None:
        request_parent_death_signal()


def request_parent_death_signal(parent_pid: int | None = None) -> None:
    """Leave the terminal's process group, and ask the kernel to kill this process when its parent ends.

    Args:
        parent_pid: the parent, if it is known; otherwise a parent that has just ended is found only where processes
            without one belong to process 1.

    NOTE: the kernel watches the *thread* of the parent that started this process, so engines are started from one
    thread that lives as long as the server.
    """
    # Ctrl-C and other signals to the terminal's process group must reach the server alone: it lets running answers
    # finish before it ends the engine.
    os.setpgrp()
    if sys.platform != "linux":
        return
    parent_pid = parent_pid or os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    starter = multiprocessing.parent_process()
    was_adopted = parent_pid == _INIT_PID and starter is not None and starter.pid != _INIT_PID
    if was_adopted or os.getppid() != parent_pid:  # the parent ended before the request
        os._exit(1)
