"""A worker with faults, in a real engine process: what to do wrong is in the file that FAULT_VARIABLE names.

Given to the server as `--engine-args '{"worker_cls": "faulty_worker.FaultyWorker"}'`, with this folder in PYTHONPATH.
"""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import Any

from server.engine.process.cpu_worker import BeatingCPUWorker

FAULT_VARIABLE = "FAULTY_WORKER_FILE"


class FaultyWorker(BeatingCPUWorker):
    """Does one fault in the step after its file was written, and removes the file."""

    _layer_s = 0.0

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        super().load_model(load_dummy_weights=load_dummy_weights)
        for layer in self.get_model().model.layers:
            layer.register_forward_pre_hook(self._slow_layer)

    def execute_model(self, scheduler_output: Any) -> Any:
        file = Path(os.environ[FAULT_VARIABLE])
        if scheduler_output.total_num_scheduled_tokens and file.is_file():
            kind, seconds = file.read_text().split()
            file.unlink()
            getattr(self, f"_{kind}")(float(seconds))
        try:
            return super().execute_model(scheduler_output)
        finally:
            self._layer_s = 0.0

    def _loop(self, seconds: float) -> None:
        """A step that never ends."""
        while True:
            pass

    def _hold_gil(self, seconds: float) -> None:
        """A thread that keeps the GIL, as a compiler of grammars in C does: no other Python code runs."""
        threading.Thread(target=_backtrack, daemon=True).start()

    def _sleep(self, seconds: float) -> None:
        """A step that is only long."""
        time.sleep(seconds)

    def _slow_layers(self, seconds: float) -> None:
        """A step that takes `seconds` per layer."""
        self._layer_s = seconds

    def _slow_layer(self, module: object, inputs: object) -> None:
        if self._layer_s:
            time.sleep(self._layer_s)


def _backtrack() -> None:
    """A regular expression that takes longer than anybody waits, in C and without releasing the GIL."""
    re.match(r"(a+)+$", "a" * 60 + "b")
