"""Imported first by the fork server: the kernel ends it with the server, and what it forks with it.

Leans on nothing of vLLM.
"""

from __future__ import annotations

import logging
import os

import setproctitle

from server.engine.process.parent_death import request_parent_death_signal

# NOTE: setproctitle finds its memory at its first use, and only while the environment is unchanged.
setproctitle.setproctitle("loragate fork server")
request_parent_death_signal()
_fork_server_pid = os.getpid()
_forked = False


def _end_with_fork_server() -> None:
    """In a process that the fork server has just forked: before it imports anything, which can take seconds."""
    global _forked
    if not _forked:  # what it forks itself is none of the fork server's
        _forked = True
        request_parent_death_signal(_fork_server_pid)


os.register_at_fork(after_in_child=_end_with_fork_server)
logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # it says that there is no Triton
