"""What the server does while it starts, for a person at a terminal, who is never left without news for long."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

from server.config.logs import is_for_people

#: A dot is added this often. The import of a large library may hold the thread back for some seconds more.
_DOT_INTERVAL_S = 1.0


class StartProgress:
    """Writes one line per stage: its name, a dot every second, and how long it took.

    Plain lines, without control characters, because the engine's processes may write to the same terminal.
    """

    def __init__(self, out: TextIO | None, interval_s: float = _DOT_INTERVAL_S) -> None:
        """
        Args:
            out: where to write; None: nothing is written.
            interval_s: seconds between two dots.
        """
        self._out = out
        self._interval_s = interval_s
        self._began_s = 0.0
        self._stage = ""
        self._lock = threading.Lock()
        self._ended = threading.Event()

    @classmethod
    def on_terminal(cls) -> StartProgress:
        """On stdout if that is a terminal; a log elsewhere says what happens."""
        return cls(sys.stdout if is_for_people() else None)

    @property
    def is_shown(self) -> bool:
        """Whether somebody sees it."""
        return self._out is not None

    def stage(self, name: str) -> None:
        """End the stage before, and begin one."""
        with self._lock:
            if name == self._stage:
                return
            self._end_stage()
            if not self._stage and self._out:
                threading.Thread(target=self._add_dots, name="start-progress", daemon=True).start()
            self._stage, self._began_s = name, time.monotonic()
            self._write(f"{name} ")

    def end(self) -> None:
        """End the last stage; nothing more is written. Idempotent."""
        with self._lock:
            if not self._ended.is_set():
                self._end_stage()
            self._ended.set()

    def _end_stage(self) -> None:
        if self._stage:
            self._write(f" {time.monotonic() - self._began_s:.0f} s\n")

    def _add_dots(self) -> None:
        while not self._ended.wait(self._interval_s):
            with self._lock:
                if not self._ended.is_set():
                    self._write(".")

    def _write(self, text: str) -> None:
        if self._out:
            self._out.write(text)
            self._out.flush()
