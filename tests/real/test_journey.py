"""The page "Train your first adapter" with a real model, as it stands: trained, published, canaried, promoted."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.real.conftest import VARIABLE

SCRIPT = Path(__file__).with_name("journey.sh")
MINUTES = 45  # the bound of 20 minutes is for a machine that does nothing else


@pytest.mark.long
@pytest.mark.timeout(MINUTES * 60 + 60)
def test_the_page_leads_to_an_adapter_that_calls_functions(folder: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LORAGATE_")}
    done = subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path)],
        env=environment | {VARIABLE: str(folder)},
        capture_output=True,
        text=True,
        timeout=MINUTES * 60,
    )
    print(done.stderr[-3000:], f"{(time.monotonic() - begun) / 60:.1f} minutes")
    # The last block promotes only if nine of ten held-out calls are right.
    assert done.returncode == 0, done.stdout[-2000:]
