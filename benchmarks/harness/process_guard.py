"""A guard beside each server that a benchmark starts: when the benchmark is killed, so is the server, with all of it.

Stock vLLM's processes outlive whoever started them. The guard is a shell that waits for a line on a pipe whose other
end only the benchmark holds: a line means that the server was ended in order, the pipe's end that nobody will.
"""

from __future__ import annotations

import contextlib
import subprocess
from typing import Self

_WAIT_OR_KILL = 'read -r _ || kill -s KILL -- "-$0"'


class ProcessGuard:
    """Watches over the process group `group`, which a server leads and all its processes are in."""

    def __init__(self, group: int) -> None:
        self._shell = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", _WAIT_OR_KILL, str(group)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # what ends the benchmark's own group must not end the guard
        )

    @classmethod
    def over(cls, process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> Self:
        """A guard over a process that was started with `start_new_session`."""
        return cls(process.pid)

    def dismiss(self) -> None:
        """The server has ended. A second call does nothing."""
        assert self._shell.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._shell.stdin.write(b"\n")
            self._shell.stdin.close()
        self._shell.wait()
