"""How OpenMP's threads wait, for whatever computes on a CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping

#: How often OpenMP looks for the next parallel region before its thread sleeps: some 90 µs, which is longer than
#: Python needs between two of them. By itself libgomp looks for milliseconds, on a core that another program or
#: process may want at that moment, and a region whose other thread has lost its core waits for a whole time slice.
SPIN_COUNT = 6000
SPIN_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def spin_setting(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to an environment so that threads sleep soon; what it says about waiting already holds.

    OpenMP reads it when it is loaded, so it must be there before torch is imported.
    """
    said = any(name in environment for name in SPIN_VARIABLES)
    return {} if said else {"GOMP_SPINCOUNT": str(SPIN_COUNT)}


def sleep_soon() -> None:
    """Set it for this process; too late once torch is there."""
    os.environ.update(spin_setting(os.environ))
