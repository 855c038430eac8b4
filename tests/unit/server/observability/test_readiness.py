"""Probes, metrics and routes agree on when the server is alive and when it accepts requests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from adapters.errors import RegistryUnavailable
from server.engine.supervisor import State
from server.errors import Draining, EngineUnavailable
from server.observability.readiness import Readiness


def make(state: State, *, errored: bool | None = False, ping: Exception | None = None) -> Readiness:
    async def answer() -> None:
        if ping:
            raise ping

    engine = None if errored is None else SimpleNamespace(errored=errored)
    supervisor: Any = SimpleNamespace(state=state, engine=engine, restarts=0)
    registry: Any = SimpleNamespace(ping=answer)
    return Readiness(supervisor, registry)


@pytest.mark.parametrize(
    ("state", "errored", "alive", "accepts"),
    [
        (State.STARTING, None, False, False),
        (State.READY, False, True, True),
        (State.READY, True, False, False),
        (State.RESTARTING, None, False, False),
        (State.DRAINING, False, True, False),
        (State.STOPPED, None, False, False),
    ],
)
def test_alive_and_accepting(state: State, errored: bool | None, alive: bool, accepts: bool) -> None:
    readiness = make(state, errored=errored)
    assert (readiness.engine_alive, readiness.accepts_requests) == (alive, accepts)


def test_a_leaving_server_still_serves_but_wants_no_new_requests() -> None:
    readiness = make(State.READY)
    readiness.leaving = True
    readiness.require_ready()
    assert not readiness.accepts_requests and readiness.engine_alive


@pytest.mark.parametrize("state", [State.STARTING, State.RESTARTING])
def test_without_an_engine_a_request_is_refused(state: State) -> None:
    with pytest.raises(EngineUnavailable, match=state.value):
        make(state).require_ready()


@pytest.mark.parametrize("state", [State.DRAINING, State.STOPPED])
def test_a_draining_server_refuses_requests(state: State) -> None:
    with pytest.raises(Draining) as refused:
        make(state).require_ready()
    assert refused.value.retry_after_s == 1


async def test_a_registry_that_is_away_is_reported() -> None:
    assert await make(State.READY).registry_answers()
    assert not await make(State.READY, ping=RegistryUnavailable()).registry_answers()
