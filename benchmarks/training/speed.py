"""Our trainer against TRL's SFTTrainer: speed, memory and losses on a real model's shape with random weights."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import demo
from benchmarks.harness import shapes
from benchmarks.harness.errors import BenchmarkFailed
from benchmarks.harness.progress import ProgressReporter
from benchmarks.training.train_once import OURS, OURS_PACKED, TRL, TRL_PACKED

LOSS_EVERY = 10
_TRAIN_ONCE = "benchmarks.training.train_once"
_TIMEOUT_S = 1800
#: When it is constructed, TRL sends telemetry and a request to the hub; these variables turn both off.
_OFFLINE = ("HF_HUB_OFFLINE=1", "HF_HUB_DISABLE_TELEMETRY=1", "TRANSFORMERS_VERBOSITY=error")


class TrainingFailed(BenchmarkFailed):
    """A training process failed; the message ends with its last lines."""


@dataclass(frozen=True, slots=True)
class SpeedConfig:
    """Size of the trainings: `layers` of the shape, `steps` of `batch` samples each."""

    shape: str
    layers: int
    steps: int
    batch: int
    rounds: int
    dtype: str
    packs_too: bool = False  # also measure our own packing, besides the trainer's choice


def measure_speed(config: SpeedConfig, home: Path, progress: ProgressReporter) -> dict[str, Any]:
    """Train with each trainer in turn and compare.

    Raises:
        TrainingFailed: a training failed, for example because TRL is not installed.
    """
    base = write_base(config.shape, config.layers, home / "base")
    data = write_data(home / "data.jsonl", config.steps * config.batch)
    both = (OURS, OURS_PACKED) if config.packs_too else (OURS,)
    runs: dict[str, list[dict[str, Any]]] = {trainer: [] for trainer in (*both, TRL, TRL_PACKED)}
    for turn in range(config.rounds):
        for trainer in runs if turn % 2 == 0 else reversed(runs):
            out = home / f"{trainer}-{turn}"
            flags = {
                "base": str(base), "data": str(data), "out": str(out), "batch_samples": config.batch,
                "dtype": config.dtype, "rank": 16, "alpha": 32,
            }  # fmt: skip
            found = run_training(trainer, flags)
            runs[trainer].append(found)
            progress.log(
                f"{trainer}, round {turn + 1}: {found['trained_tokens'] / found['seconds']:.1f} trained tokens/s "
                f"({found['tokens'] / found['seconds']:.0f} in all), {found['peak_bytes'] / 2**30:.2f} GiB"
            )
    return figures_of(runs)


def figures_of(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Ratios within rounds: our trainer with its own choice of packing, against the faster of TRL's two settings."""
    rates = {
        trainer: [run["trained_tokens"] / run["seconds"] for run in found] for trainer, found in runs.items()
    }
    best = [
        max(TRL, TRL_PACKED, key=lambda trainer: rates[trainer][turn]) for turn in range(len(rates[OURS]))
    ]
    speedups = [rates[OURS][turn] / rates[trainer][turn] for turn, trainer in enumerate(best)]
    memory = [
        runs[OURS][turn]["peak_bytes"] / runs[trainer][turn]["peak_bytes"]
        for turn, trainer in enumerate(best)
    ]
    # TRL without packing has the same samples in the same order; with packing, its steps have other samples.
    pairs = list(zip(runs[OURS][0]["losses"], runs[TRL][0]["losses"], strict=True))
    every = pairs[LOSS_EVERY - 1 :: LOSS_EVERY]
    return {
        "tokens_per_s_vs_trl": round(statistics.median(speedups), 4),
        "peak_memory_vs_trl": round(statistics.median(memory), 4),
        "loss_difference_vs_trl": round(max(abs(a - b) / b for a, b in every), 6),
        "losses_compared": len(every),
        "trained_tokens_per_s": {
            trainer: round(statistics.median(found), 2) for trainer, found in rates.items()
        },
        "peak_gib": {
            trainer: round(statistics.median(run["peak_bytes"] for run in found) / 2**30, 3)
            for trainer, found in runs.items()
        },
        "dtype": runs[OURS][0]["dtype"],
    }


def run_training(trainer: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Run one training in a process of its own. Raises: TrainingFailed."""
    command = ["env", *_OFFLINE, sys.executable, "-m", _TRAIN_ONCE, trainer, json.dumps(flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
    if done.returncode:
        raise TrainingFailed(
            f"The training with {trainer} failed:\n" + "\n".join(done.stderr.splitlines()[-15:])
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_base(shape: str, layers: int, folder: Path) -> Path:
    """Write a model of `shape` with `layers` layers and random weights, and the demo's tokenizer and template."""
    import torch
    from safetensors.torch import save_model
    from transformers import AutoConfig, AutoModelForCausalLM

    path = shapes.write_model(shape, folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"num_hidden_layers": layers, "max_window_layers": layers}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    # float16 halves the size on disk; the trainers load it in the dtype in which they train.
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float16)
    save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def write_data(path: Path, samples: int) -> Path:
    """Write `samples` chats of the demo's tenants in turn: short answers and tool calls of mixed lengths."""
    files = [adapter.data.read_text(encoding="utf-8").splitlines() for adapter in demo.ADAPTERS.values()]
    mixed = [line for pair in zip(*files, strict=False) for line in pair]
    path.write_text("\n".join(mixed[:samples]) + "\n", encoding="utf-8")
    return path
