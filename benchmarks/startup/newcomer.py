"""Plays somebody who sees loragate for the first time: the start on a terminal, then the request that it shows.

    python -m benchmarks newcomer [-- COMMAND ...]

Runs the commands of the README's first block one after the other (on a free port, with a new data folder), or the
given command, on a pseudo-terminal, until a banner says that the server is ready. Measures the longest time without a
character of output, tries the requests of the banner as they stand there until one is answered, and stops the server
with Ctrl-C. With `make serve VENV=/tmp/new` as the command, the installation is part of it. Prints a table, then one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness.errors import BenchmarkFailed
from benchmarks.harness.report import publish
from benchmarks.harness.servers import free_port, scratch

#: Seconds of silence that a person bears; commands until the server is there, and requests until one is answered.
BOUNDS = {"silence_s": ("<=", 5.0), "commands": ("<=", 1.0), "pasted_requests": ("<=", 1.0)}
START_TIMEOUT_S = 1800.0
_STOP_TIMEOUT_S = 60.0
_BANNER_ENDS = "Ctrl-C stops"
_REQUEST = re.compile(r"^ +curl .*?(?:[^\\\r]\r?\n)", re.MULTILINE | re.DOTALL)
_CTRL_C = b"\x03"
_README = Path(__file__).parents[2] / "README.md"


def main(argv: Sequence[str]) -> int:
    """Start, ask and stop once; 0 if every bound holds, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks newcomer", description="The first minute.")
    parser.add_argument("command", nargs="*", help="how to start the server (default: as the README says)")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    options = parser.parse_args(argv)
    with scratch() as home:
        readme = commands_of(_README.read_text(), f"PORT={free_port()}", f"ARGS=--data-dir {home}")
        figures = measure([options.command] if options.command else readme)
    return publish("newcomer", figures, BOUNDS, options.out)


@dataclass(slots=True)
class Terminal:
    """A command on a pseudo-terminal, and what a person sees of it."""

    pid: int
    device: int
    began_s: float = field(default_factory=time.monotonic)
    seen: str = ""
    silence_s: float = 0.0
    _last_s: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, command: Sequence[str]) -> Terminal:
        """Start the command."""
        pid, device = pty.fork()
        if pid == 0:
            os.execvp(command[0], list(command))  # noqa: S606  # the command of the person who measures
        return cls(pid, device)

    def read(self, timeout_s: float) -> bool:
        """Take what has been written; False: the command has ended."""
        if select.select([self.device], [], [], timeout_s)[0]:
            try:
                text = os.read(self.device, 65536).decode(errors="replace")
            except OSError:  # Linux: the other end is closed
                return False
            self.seen += text
            self._last_s, before_s = time.monotonic(), self._last_s
            self.silence_s = max(self.silence_s, self._last_s - before_s)
            sys.stderr.write(text)
            sys.stderr.flush()
        return True


def measure(commands: Sequence[Sequence[str]]) -> dict[str, float]:
    """The figures of one start with these commands. Raises: BenchmarkFailed."""
    began_s, silence_s = time.monotonic(), 0.0
    for number, command in enumerate(commands, start=1):
        terminal = Terminal.of(command)
        try:
            is_ready = _starts_a_server(terminal)
            silence_s = max(silence_s, terminal.silence_s)
            if not is_ready:
                continue
            ready_s = time.monotonic() - began_s
            pasted = _pasted_until_answered(requests_of(terminal.seen))
            answered_s = time.monotonic() - began_s
            stop_s = _stop(terminal)
        finally:
            _end(terminal)
        return {
            "silence_s": round(silence_s, 2),
            "commands": float(number),
            "pasted_requests": float(pasted),
            "ready_s": round(ready_s, 1),
            "first_answer_s": round(answered_s, 1),
            "stop_s": round(stop_s, 1),
        }
    raise BenchmarkFailed(f"None of {len(commands)} commands started a server; their output is above.")


def commands_of(readme: str, *make_arguments: str) -> list[list[str]]:
    """The commands of the README's first block; `make serve` gets the arguments."""
    block = readme.split("```bash\n", 1)[1].split("```", 1)[0]
    commands = [words for line in block.splitlines() if (words := shlex.split(line, comments=True))]
    return [[*words, *make_arguments] if words[:2] == ["make", "serve"] else words for words in commands]


def _starts_a_server(terminal: Terminal) -> bool:
    """Wait for the banner; False: the command ended before. Raises: BenchmarkFailed."""
    while _BANNER_ENDS not in terminal.seen:
        if not terminal.read(0.2):
            return False
        if time.monotonic() - terminal.began_s > START_TIMEOUT_S:
            raise BenchmarkFailed(f"No server was ready after {START_TIMEOUT_S:g} s; the output is above.")
    return True


def requests_of(screen: str) -> list[str]:
    """The requests that the banner shows."""
    return [request.replace("\r", "") for request in _REQUEST.findall(screen)]


def _pasted_until_answered(requests: Sequence[str]) -> int:
    """The number of requests that were tried until one was answered. Raises: BenchmarkFailed: none was."""
    failed = BenchmarkFailed("The banner shows no request.")
    for number, request in enumerate(requests, start=1):
        try:
            answer_to(request)
        except BenchmarkFailed as error:
            failed = error
        else:
            return number
    raise failed


def answer_to(request: str) -> str:
    """The answer's text to a pasted request. Raises: BenchmarkFailed."""
    done = subprocess.run(  # noqa: S602  # a person pastes it into a shell, too
        request, shell=True, capture_output=True, text=True, timeout=120, check=False
    )
    try:
        return str(json.loads(done.stdout)["choices"][0]["message"]["content"])
    except (ValueError, LookupError) as error:
        raise BenchmarkFailed(
            f"The pasted request got no answer: {done.stdout or done.stderr:.300}"
        ) from error


def _stop(terminal: Terminal) -> float:
    """Press Ctrl-C; returns the seconds until the command has ended."""
    began_s = time.monotonic()
    os.write(terminal.device, _CTRL_C)
    while terminal.read(0.2):
        if time.monotonic() - began_s > _STOP_TIMEOUT_S:
            raise BenchmarkFailed(f"The server still runs {_STOP_TIMEOUT_S:g} s after Ctrl-C.")
    return time.monotonic() - began_s


def _end(terminal: Terminal) -> None:
    os.close(terminal.device)
    ended, _ = os.waitpid(terminal.pid, os.WNOHANG)
    if not ended:
        os.kill(terminal.pid, signal.SIGTERM)
        os.waitpid(terminal.pid, 0)
