"""Kills a server with all its processes when the program that started it is killed.

The processes of stock vLLM outlive the process that started them. The guard is a shell that reads from a pipe; only
the benchmark holds the other end. A line means that the server was stopped as planned. The end of the pipe means that
the benchmark is gone, and the guard kills the server's process group.
"""

from __future__ import annotations

import contextlib
import subprocess

_WAIT_OR_KILL = 'read -r _ || kill -s KILL -- "-$0"'


class ProcessGuard:
    """Guards the process group `group`: the id of a server that was started with `start_new_session`."""

    def __init__(self, group: int) -> None:
        self._shell = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", _WAIT_OR_KILL, str(group)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a signal to the benchmark's own group must not end the guard
        )

    def dismiss(self) -> None:
        """End the guard, because the server has ended. A second call does nothing."""
        assert self._shell.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._shell.stdin.write(b"\n")
            self._shell.stdin.close()
        self._shell.wait()
