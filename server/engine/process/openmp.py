"""OpenMP's wait policy for processes that compute on a CPU. Leans on nothing of vLLM."""

from __future__ import annotations

import os
from collections.abc import Mapping

#: Iterations that an OpenMP thread spins before it sleeps: about 90 µs, which is longer than Python needs between two
#: parallel regions. libgomp's default spins for milliseconds on a core that another process may need, and a region
#: whose other thread has lost its core waits for a whole time slice.
SPIN_COUNT = 6000
WAIT_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def wait_policy(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that make threads sleep soon; empty when the environment sets a wait policy already.

    OpenMP reads them when it is loaded, so they must be set before torch is imported.
    """
    is_set = any(name in environment for name in WAIT_VARIABLES)
    return {} if is_set else {"GOMP_SPINCOUNT": str(SPIN_COUNT)}


def set_wait_policy() -> None:
    """Set `wait_policy` for this process; it has no effect after torch is imported."""
    os.environ.update(wait_policy(os.environ))
