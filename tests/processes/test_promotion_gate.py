"""Conditions of promotions decide rightly: versions that the trainer makes, figures of the serving engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_of_20_seeds_every_worse_version_is_refused_and_every_better_one_promoted() -> None:
    command = [sys.executable, "-m", "benchmarks", "gate", "--seeds", "20", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=5300)
    assert done.stdout, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(figures))
    assert done.returncode == 0, done.stderr
    assert (figures["better_promoted"], figures["worse_refused"], figures["wrong_decisions"]) == (20, 20, 0)
    assert figures["largest_better_loss"] < figures["current_loss"] < figures["smallest_worse_loss"]
