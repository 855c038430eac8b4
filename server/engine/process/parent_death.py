"""No engine process outlives the server.

Every process that vLLM starts runs `die_with_parent` through our plugin. The kernel then kills the process
when its parent goes, however it goes: `kill -9` of the server takes the fork server and EngineCore with it, and
EngineCore its workers. Leans on nothing of vLLM but its plugin call.
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
    """Tie this process to its parent; does nothing in the server itself, which nobody of ours started."""
    if multiprocessing.parent_process() is not None:
        ask_to_die_with_parent()


def ask_to_die_with_parent() -> None:
    """Leave the group of the terminal, and ask the kernel to kill this process when its parent is gone.

    NOTE: the kernel watches the parent's *thread* that started us, which is why engines are started from one
    thread that lives as long as the server.
    """
    # Out of the terminal's group: Ctrl-C, or whoever signals the group, must reach the server alone, which
    # lets running answers end before it ends the engine.
    os.setpgrp()
    if sys.platform != "linux":
        return
    parent_pid = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    starter = multiprocessing.parent_process()
    adopted = parent_pid == _INIT_PID and starter is not None and starter.pid != _INIT_PID
    if adopted or os.getppid() != parent_pid:  # it went before we asked
        os._exit(1)
