"""What the fork server is loaded with."""

from __future__ import annotations

import pytest

from server.engine.process.environment import LOADED_WITH, worker_environment
from server.engine.process.openmp import SPIN_COUNT


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)


def test_a_thread_per_core_that_soon_sleeps() -> None:
    environment = worker_environment([2, 3])
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["GOMP_CPU_AFFINITY"] == "2 3"
    assert environment["GOMP_SPINCOUNT"] == str(SPIN_COUNT)
    assert set(environment) <= set(LOADED_WITH)


@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "ACTIVE")])
def test_how_threads_wait_is_the_operators_if_set(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert "GOMP_SPINCOUNT" not in worker_environment([0])
