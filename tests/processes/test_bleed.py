"""No answer is ever another adapter's: base and three adapters in one batch, against solo answers.

It runs vLLM's whole engine in a process of its own, twice: with our LoRA products, and with vLLM's, to show
that the scenario would notice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import demo
from demo.random_adapter import write_random_adapter
from server.engine import plugin

SCENARIO = Path(__file__).with_name("bleed_scenario.py")
MIXES = 5


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [
        write_random_adapter(folder / f"rank-{rank}", seed=rank, rank=rank, scale=2.0) for rank in (4, 8, 16)
    ]


def run_scenario(adapters: list[Path], environment: dict[str, str]) -> dict[str, Any]:
    options = ["--model", demo.MODEL_DIR, "--mixes", MIXES, "--seed", 0, "--adapters", *adapters]
    done = subprocess.run(
        [sys.executable, str(SCENARIO), *map(str, options)],
        env=dict(os.environ)
        | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}
        | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert report["answers"] == MIXES * 12
    assert report["alike"] == [], "an adapter that changes nothing would hide a mix-up"
    return report


def test_every_answer_of_a_mixed_batch_is_its_own(adapters: list[Path]) -> None:
    report = run_scenario(adapters, {})
    assert report["wrapper"] == plugin.PUNICA_WRAPPER
    assert report["wrong"] == []


@pytest.mark.long
def test_the_same_scenario_catches_vllms_own_products(adapters: list[Path]) -> None:
    """If this fails, vLLM has mended `PunicaWrapperCPU`: ours may only be faster from then on."""
    report = run_scenario(adapters, dict(plugin.STOCK_ENVIRONMENT))
    assert report["wrapper"].endswith(".PunicaWrapperCPU")
    assert [label for label in report["wrong"] if label.endswith("base")]
