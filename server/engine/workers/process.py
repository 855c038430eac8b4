"""One worker process: what runs in it, and how the server starts it, asks it and kills it.

A worker runs one job at a time. Work that cannot be interrupted in a thread (a C++ compiler, a tokenizer) ends here
with its process.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

import psutil
import setproctitle

from server.engine.process import fork_server
from server.engine.process.parent_death import die_with_parent
from server.engine.workers.errors import WorkerDied

#: Tenants' inputs must not slow down the engine, which runs on the same cores.
_NICENESS = 10
#: Most time for the start of a process and its setup, in seconds; without the fork server it imports vLLM.
START_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What every worker of a pool has in common."""

    name: str
    """Title of the process, as `ps` shows it."""
    setup: Callable[[], None] | None
    """Runs once in each new worker; picklable."""
    memory_bytes: int
    """What a worker may allocate beyond what it has after its setup."""
    cores: frozenset[int]
    """The cores that it may run on; the fork server is bound to one."""


class Worker:
    """The server's end of one worker process. Its methods block: call them from a thread."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._memory_bytes = settings.memory_bytes
        context = _context()
        self._connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=_work, args=(theirs, settings), name=settings.name, daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int | None:
        """The process id."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait for the end of the setup. Raises: WorkerDied: it failed, or took longer than START_LIMIT_S."""
        try:
            if self._connection.poll(START_LIMIT_S):
                self._connection.recv_bytes()
                return
        except (EOFError, OSError) as error:
            raise WorkerDied(self._memory_bytes) from error
        raise WorkerDied(self._memory_bytes)

    def ask(self, task: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Run one job.

        Raises:
            WorkerDied: the process ended before it answered, for any reason, `kill` included.
            Exception: what the task raised.
        """
        try:
            self._connection.send((task, arguments))
            succeeded, result = self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerDied(self._memory_bytes) from error
        if succeeded:
            return result
        raise result

    def kill(self) -> None:
        """End the process now; a thread in `ask` gets WorkerDied. Idempotent, does not wait."""
        self._process.kill()

    def close(self) -> None:
        """End the process, wait for its end and free its pipe."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._connection.close()


def _context() -> BaseContext:
    """The fork server, where one runs; it has imported vLLM already. Elsewhere (tests, tools): spawn."""
    return multiprocessing.get_context("forkserver" if fork_server.is_running() else "spawn")


def _work(connection: Connection, settings: WorkerSettings) -> None:
    """Serve jobs until the server closes the pipe or kills this process."""
    die_with_parent()
    setproctitle.setproctitle(settings.name)
    os.sched_setaffinity(0, settings.cores)
    os.nice(_NICENESS)
    if settings.setup is not None:
        settings.setup()
    _bound_memory(settings.memory_bytes)
    connection.send_bytes(b"ready")
    while True:
        try:
            task, arguments = connection.recv()
        except EOFError:
            return
        connection.send_bytes(_answer(task, arguments))


def _answer(task: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    """The pickled outcome: (True, result) or (False, error)."""
    try:
        return pickle.dumps((True, task(*arguments)), protocol=pickle.HIGHEST_PROTOCOL)
    except MemoryError:  # the state of the libraries is unknown: end this process, which the server reports
        os._exit(1)
    except Exception as error:  # noqa: BLE001 - process edge: the error belongs to whoever asked
        return pickle.dumps((False, _portable(error)))


def _portable(error: Exception) -> Exception:
    """The error, or its text where pickle could not rebuild it from its arguments."""
    try:
        type(error)(*error.args)
    except TypeError:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _bound_memory(allowance_bytes: int) -> None:
    """Let allocations fail beyond the allowance: the address space may grow by it, and no core file is written."""
    bound = psutil.Process().memory_info().vms + allowance_bytes
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
