"""The first customer's journey: the trainings that `tests/real/journey.sh` runs, and what was trained."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.errors import BenchmarkFailed
from benchmarks.harness.progress import ProgressReporter
from benchmarks.real import journey_data

VOICE, ASSISTANT = "voice", "assistant"
#: What both trainings have, and what each has of its own; docs/jobs/train-your-first-adapter.md has the same flags.
_COMMON = (
    "--epochs 1 --batch-samples 8 --micro-batch-samples 8 --packing prefix --checkpoint-every 10 --measure 0"
)
_TIMEOUT_S = 3600


class StepFailed(BenchmarkFailed):
    """A command of loragate failed; the message ends with its last lines."""


@dataclass(frozen=True, slots=True)
class Journey:
    """The folder of a journey: `data`, and the adapters in `out`."""

    home: Path
    base: Path

    def data(self, name: str) -> Path:
        """A file of the data."""
        return self.home / "data" / f"{name}.jsonl"

    def adapter(self, name: str) -> Path:
        """A trained adapter's folder."""
        return self.home / "out" / name

    def train(self, more: Sequence[str], progress: ProgressReporter) -> float:
        """Train both adapters, or go on with them; returns the minutes in all. `more`: further flags of both.

        Raises:
            StepFailed: a training fails.
        """
        journey_data.main(self.home / "data")
        calls = ["--learning-rate", "1.5e-4", "--start-from", str(self.adapter(VOICE))]
        calls += ["--replay", str(self.data("replay")), "--replay-ratio", "0.15"]
        for name, data, own in ((VOICE, "support", ["--learning-rate", "3e-4"]), (ASSISTANT, "calls", calls)):
            if not (self.adapter(name) / "training.json").is_file():
                files = ["--data", str(self.data(data)), "--held-out", str(self.data(f"{data}-held-out"))]
                folders = ["--base", str(self.base), "--out", str(self.adapter(name))]
                progress.log(f"training {name}")
                run_loragate("train", *folders, *files, *own, *_COMMON.split(), *more)
        return sum(self._seconds(name) for name in (VOICE, ASSISTANT)) / 60

    def _seconds(self, name: str) -> float:
        report = json.loads((self.adapter(name) / "training.json").read_text(encoding="utf-8"))
        return float(report["total_s"])


def run_loragate(*arguments: str) -> tuple[str, float]:
    """Run a command of loragate, whose stderr is shown; its stdout, and how many seconds it took.

    Raises:
        StepFailed: it fails.
    """
    began_s = time.perf_counter()
    command = [sys.executable, "-m", "server.cli", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
    if done.returncode:
        raise StepFailed(f"`loragate {arguments[0]}` ended with {done.returncode}; its messages stand above.")
    return done.stdout, time.perf_counter() - began_s
