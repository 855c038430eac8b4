"""llama.cpp in a process of its own, driven from Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

from benchmarks.harness.errors import BenchmarkFailed
from benchmarks.harness.processes.process_guard import ProcessGuard

FOLDER = Path(__file__).with_name("llama")
_BINARIES = FOLDER / "node_modules" / "@node-llama-cpp" / "linux-x64" / "bins" / "linux-x64"
_INSTALL = f"`npm install --no-save --omit=optional --ignore-scripts` in benchmarks/lora/decode/{FOLDER.name}"


class LlamaProcess:
    """A loaded model; a context manager that ends the process. Raises: BenchmarkFailed, for each method."""

    def __init__(self, model: Path, threads: int, max_streams: int) -> None:
        node = shutil.which("node")
        if node is None:
            raise BenchmarkFailed(
                "llama.cpp needs Node 20 or later on the PATH: install it, or use --without llama."
            )
        command = [node, str(FOLDER / "decode.js"), str(model), str(threads), str(max_streams)]
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._guard = ProcessGuard(self._process.pid)
        self._read()

    def decode_rate(self, streams: int, tokens: int, seed: int) -> float:
        """Tokens per second of `streams` sequences of `tokens` greedy tokens, while all of them generate."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"streams": streams, "tokens": tokens, "seed": seed}) + "\n")
        self._process.stdin.flush()
        return float(self._read()["tokens_per_s"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkFailed(
                f"llama.cpp ended with {self._process.wait()}; its own lines above say why."
            )
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._guard.dismiss()


def library() -> Path:
    """llama.cpp's own library. Raises: BenchmarkFailed: it is not installed."""
    found = sorted(_BINARIES.glob("libllama.v*.so")) or sorted(_BINARIES.glob("libllama.so"))
    if not found:
        raise BenchmarkFailed(f"llama.cpp is not installed: {_INSTALL}, or use --without llama.")
    return found[0]
