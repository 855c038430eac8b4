"""The environment that the fork server starts with."""

from __future__ import annotations

import pytest

from server.engine.process.fork_server import LOADED_WITH, worker_environment
from server.engine.process.openmp import SPIN_COUNT


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)


def test_one_thread_per_core_with_a_short_spin_time() -> None:
    environment = worker_environment([2, 3])
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["GOMP_CPU_AFFINITY"] == "2 3"
    assert environment["GOMP_SPINCOUNT"] == str(SPIN_COUNT)
    assert set(environment) <= set(LOADED_WITH)


@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "ACTIVE")])
def test_an_operators_wait_policy_stays_in_force(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert "GOMP_SPINCOUNT" not in worker_environment([0])
