"""Starts EngineCore fast: it is forked from a server process that has imported vLLM already.

On a CPU vLLM spawns EngineCore, which spawns the worker: the same imports run three times, one after the other.
`start` starts Python's fork server before anything else; it imports vLLM while the API process does the same on
another core. EngineCore is then forked from it, at the start and at every restart, and runs the model itself
(`EXECUTOR`).

Leans on (vLLM 0.32): `get_mp_context` as imported by vllm.v1.engine.utils (replaced here), and a worker's OpenMP
environment as vllm.utils.ompmultiprocessing sets it (set here in advance, because OpenMP reads it once, when it is
loaded).
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from multiprocessing import context, forkserver
from pathlib import Path

from server.engine.process.openmp import WAIT_VARIABLES, wait_policy

#: The modules that the fork server imports. None of them may start a thread or run a parallel region, because
#: neither survives a fork.
PRELOAD = [
    "server.engine.process.fork_server_preload",
    "vllm.v1.engine.core",
    "vllm.v1.engine.async_llm",
    "server.engine.process.executor",
    "server.engine.process.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.lora.worker_manager",
    "vllm.model_executor.models.qwen2",
    "server.engine.plugin",
]

#: Variables that the libraries in the fork server have already read; a forked process inherits their effect.
LOADED_WITH = ("OMP_NUM_THREADS", "GOMP_CPU_AFFINITY", "LD_PRELOAD", *WAIT_VARIABLES)

#: The executor of a forked EngineCore, as vLLM's `distributed_executor_backend`.
EXECUTOR = "server.engine.process.executor.InPlaceExecutor"


class _EngineCoreProcess(context.ForkServerProcess):
    """EngineCore, forked from the fork server but with the environment of the process that starts it."""

    def start(self) -> None:
        """Pass the current environment on; the fork server has only the one it was started with."""
        self._environment = dict(os.environ)
        self._cores = os.sched_getaffinity(0)
        super().start()

    def run(self) -> None:
        """Restore the passed environment, then run vLLM's target."""
        loaded_with = {name: os.environ[name] for name in LOADED_WITH if name in os.environ}
        os.environ.clear()
        os.environ.update(self._environment | loaded_with)
        # OpenMP bound the fork server to its first core when it was loaded; most threads must be free to move.
        os.sched_setaffinity(0, self._cores)
        super().run()


class _EngineCoreContext(context.ForkServerContext):
    Process = _EngineCoreProcess


def start(environment: Mapping[str, str]) -> None:
    """Start the fork server; returns at once while the fork server imports vLLM.

    Call it before anything else is imported, and from the thread that starts engines: the kernel ends the fork
    server together with that thread (see `server.engine.process.fork_server_preload`).

    Args:
        environment: the variables that the worker's OpenMP reads when it is loaded (`worker_environment`).
    """
    multiprocessing.set_forkserver_preload(PRELOAD)
    with _environment(environment):
        forkserver.ensure_running()


def worker_environment(cores: list[int]) -> dict[str, str]:
    """One OpenMP thread per core, bound to it, a short spin time, and the libraries that vLLM preloads into workers.

    A wait policy in the operator's environment stays in force.
    """
    torch_folder = _package_folder("torch")
    libraries = [
        _library(_package_folder("vllm") / "libs", "libtcmalloc_minimal*.so*"),
        _library(torch_folder.parent / "torch.libs", "libgomp*.so*")
        or _library(torch_folder / "lib", "libgomp*.so*"),
    ]
    return {
        "OMP_NUM_THREADS": str(len(cores)),
        "GOMP_CPU_AFFINITY": " ".join(map(str, cores)),
        "LD_PRELOAD": ":".join(filter(None, libraries)),
        **wait_policy(os.environ),
    }


def first_core() -> int | None:
    """The core of the thread that starts OpenMP's parallel regions; None when threads are not bound."""
    cores = os.environ.get("GOMP_CPU_AFFINITY", "").split()
    return int(cores[0]) if cores else None


def mp_context() -> context.BaseContext:
    """The context that starts EngineCore; replaces vLLM's `get_mp_context`.

    In the API process EngineCore comes from the fork server; elsewhere vLLM's own choice on a CPU applies: spawn.
    """
    return _EngineCoreContext() if is_running() else multiprocessing.get_context("spawn")


def is_running() -> bool:
    """Whether `start` was called in this process."""
    return forkserver._forkserver._forkserver_pid is not None  # type: ignore[attr-defined]


def install() -> None:
    """Replace `get_mp_context` where vLLM starts EngineCore. Idempotent."""
    from vllm.v1.engine import utils

    utils.get_mp_context = mp_context


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _library(folder: Path, pattern: str) -> str:
    """The first library that matches, or an empty string."""
    return next((str(path) for path in sorted(folder.glob(pattern))), "")


def _package_folder(name: str) -> Path:
    """The folder of a package, found without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None, name
    return Path(spec.origin).parent
