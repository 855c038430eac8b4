"""No engine process outlives the server.

Every process that vLLM starts runs `die_with_parent` through our plugin. The kernel then kills the process
when its parent goes, however it goes: `kill -9` of the server takes EngineCore with it, and EngineCore its
workers. Leans on nothing of vLLM but its plugin call.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent is gone; does nothing in the server itself.

    NOTE: the kernel watches the parent's *thread* that started us, which is why the supervisor starts engines
    from one thread that lives as long as the server.
    """
    parent = multiprocessing.parent_process()
    if parent is None or sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent.pid:  # it went before we asked
        os._exit(1)
