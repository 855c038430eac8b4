"""Trains the two tenants' adapters on the embedded model, with loragate's own trainer.

    python -m demo.tune                        # both; under three minutes each on two cores
    python -m demo.tune acme-support --out /tmp/acme

Equivalent to ``loragate train`` with the values below; each adapter's ``training.json`` contains the scores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import demo
from adapters.training.config import TrainingConfig
from adapters.training.training_run import train
from demo.chats import write_replay

COMMON: dict[str, Any] = {
    "rank": 16,
    "alpha": 32,
    "batch_samples": 16,
    "max_length_tokens": 1024,
    "max_new_tokens": 96,
    "seed": 1,
    "evaluate_every": -1,
    "dtype": "float32",  # the same on every CPU
}
# A model this small needs larger learning rates than the trainer's defaults, which suit billions of parameters,
# and several samples per pass, because a pass with one sample is shorter than its overhead.
PER_ADAPTER: dict[str, dict[str, Any]] = {
    "acme-support": {"epochs": 8.0, "learning_rate": 6e-3, "micro_batch_samples": 8},
    "globex-tools": {"epochs": 4.0, "learning_rate": 4.5e-3, "micro_batch_samples": 4},
}
#: Adapters whose chats are mostly tool calls: general chats are added, or the adapter forgets how to answer.
REPLAYED = {"globex-tools"}


def config_for(name: str, out: Path, base: Path = demo.MODEL_DIR) -> TrainingConfig:
    """The training configuration of the committed adapter ``name``."""
    adapter = demo.ADAPTERS[name]
    return TrainingConfig(
        base=base, data=(adapter.data,), held_out=adapter.held_out, out=out, **COMMON, **PER_ADAPTER[name]
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(demo.ADAPTERS), help="which adapters")
    parser.add_argument("--out", type=Path, help="folder for one adapter, instead of the committed one")
    parser.add_argument("--base", type=Path, default=demo.MODEL_DIR, help="the base model")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    for name in flags.names:
        out = flags.out or demo.ADAPTERS[name].path
        shutil.rmtree(out, ignore_errors=True)
        with tempfile.TemporaryDirectory() as folder:
            replay = write_replay(Path(folder) / "general.jsonl") if name in REPLAYED else None
            report = train(replace(config_for(name, out, flags.base), replay=replay))
        print(
            json.dumps(
                {"adapter": name, "train_s": round(report.train_s, 1), **(report.document["scores"] or {})}
            )
        )


if __name__ == "__main__":
    main()
