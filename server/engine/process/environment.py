"""Engine processes that start in a moment: forked from one that has imported vLLM already.

On a CPU vLLM spawns EngineCore, which spawns the worker: the same imports run three times, one after the other.
`warm_up` starts Python's fork server as the very first thing; it imports while the API process does the same on
another core. EngineCore is then forked from it, at the start and at every restart, and computes itself (`EXECUTOR`).

Leans on: `get_mp_context` as imported by vllm.v1.engine.utils (replaced here), and on a worker's OpenMP environment
as vllm.utils.ompmultiprocessing makes it (made here beforehand, because OpenMP reads it once, when it is loaded).
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from multiprocessing import context, forkserver
from pathlib import Path

from server.engine.process.openmp import SPIN_VARIABLES, spin_setting

#: What the fork server imports. Nothing in these may start a thread or run a parallel region: neither survives
#: a fork.
PRELOAD = [
    "server.engine.process.fork_server",
    "vllm.v1.engine.core",
    "vllm.v1.engine.async_llm",
    "server.engine.process.executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.lora.worker_manager",
    "vllm.model_executor.models.qwen2",
    "server.engine.plugin",
]


#: What the fork server's libraries have read from its environment, and a fork's inherit.
LOADED_WITH = ("OMP_NUM_THREADS", "GOMP_CPU_AFFINITY", "LD_PRELOAD", *SPIN_VARIABLES)

#: vLLM's name for who runs the model in such an EngineCore.
EXECUTOR = "server.engine.process.executor.InPlaceExecutor"


class _WarmProcess(context.ForkServerProcess):
    """EngineCore, forked from the fork server but with the environment of the process that asks for it."""

    def start(self) -> None:
        """Take the environment along; the fork server has only the one it was started with."""
        self._environment = dict(os.environ)
        self._cores = os.sched_getaffinity(0)
        super().start()

    def run(self) -> None:
        """Put the environment in place, then go on as vLLM wants."""
        loaded_with = {name: os.environ[name] for name in LOADED_WITH if name in os.environ}
        os.environ.clear()
        os.environ.update(self._environment | loaded_with)
        # OpenMP bound the fork server to its first core when it was loaded; most threads are to be free.
        os.sched_setaffinity(0, self._cores)
        super().run()


class _WarmContext(context.ForkServerContext):
    Process = _WarmProcess


def warm_up(environment: Mapping[str, str]) -> None:
    """Start the fork server; returns at once, the imports go on in it.

    Call it before anything else is imported, and from the thread that will start engines: the kernel ends the
    fork server together with that thread (see `server.engine.process.fork_server`).

    Args:
        environment: what the worker's OpenMP must find when it is loaded (`worker_environment`).
    """
    multiprocessing.set_forkserver_preload(PRELOAD)
    with _environment(environment):
        forkserver.ensure_running()


def worker_environment(cores: list[int]) -> dict[str, str]:
    """One OpenMP thread bound to each core that soon sleeps, and the libraries that vLLM preloads into workers.

    What the operator's environment says about waiting holds.
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
        **spin_setting(os.environ),
    }


def first_core() -> int | None:
    """The core that OpenMP leaves to the thread that starts its regions; None where nothing was bound."""
    cores = os.environ.get("GOMP_CPU_AFFINITY", "").split()
    return int(cores[0]) if cores else None


def mp_context() -> context.BaseContext:
    """How EngineCore is started; stands in for vLLM's `get_mp_context`.

    In the API process it comes from the fork server; everywhere else vLLM's own choice on a CPU holds, spawn.
    """
    return _WarmContext() if is_warm() else multiprocessing.get_context("spawn")


def is_warm() -> bool:
    """Whether `warm_up` was called in this process."""
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
    """The first library that matches, or nothing."""
    return next((str(path) for path in sorted(folder.glob(pattern))), "")


def _package_folder(name: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None, name
    return Path(spec.origin).parent
